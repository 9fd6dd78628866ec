/** Addresses of the console: what is seen is in the address, and Back works. */
import { useEffect, useReducer } from "preact/hooks";

const BASE = "/console";
const hearers = new Set<() => void>();

export const home = `${BASE}/`;
export const endpointAt = (name: string) => `${BASE}/endpoints/${encodeURIComponent(name)}`;
export const workerAt = (id: number) => `${BASE}/workers/${id}`;
export const workersAt = `${BASE}/workers`;

export type Place = { page: "overview" | "workers" | "endpoint" | "worker" | "none"; name: string };

export function place(path = location.pathname): Place {
  const [page = "", ...rest] = path.slice(BASE.length).split("/").filter(Boolean);
  const name = rest.join("/");
  if (!page) return { page: "overview", name: "" };
  if (page === "endpoints" && name) return { page: "endpoint", name: decoded(name) };
  if (page === "workers") return name ? { page: "worker", name } : { page: "workers", name: "" };
  return { page: "none", name: path };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function go(address: string, replace = false): void {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  hearers.forEach((hear) => hear());
  if (!replace) {
    scrollTo(0, 0);
    document.getElementById("main")?.focus({ preventScroll: true });
  }
}

export function asked(name: string): string {
  return new URLSearchParams(location.search).get(name) ?? "";
}

export function ask(name: string, value: string): void {
  const query = new URLSearchParams(location.search);
  if (value) query.set(name, value);
  else query.delete(name);
  go(location.pathname + (query.size ? `?${query}` : ""), true);
}

export function usePlace(): Place {
  const [, paint] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    const hear = () => paint(undefined as never);
    hearers.add(hear);
    addEventListener("popstate", hear);
    return () => {
      hearers.delete(hear);
      removeEventListener("popstate", hear);
    };
  }, []);
  return place();
}

/** Follows links within the console without a load. */
export function followLinks(event: MouseEvent): void {
  const link = (event.target as Element).closest?.("a");
  const plain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !plain || link.target || link.hasAttribute("download") || event.defaultPrevented) return;
  if (link.origin !== location.origin || !(link.pathname + "/").startsWith(home) || link.hash) return;
  event.preventDefault();
  go(link.pathname + link.search);
}
