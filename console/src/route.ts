/** Addresses of the console: what is seen is in the address, and Back works. */
import { useEffect, useReducer } from "preact/hooks";

const BASE = "/console";
const hearers = new Set<() => void>();

export const home = `${BASE}/`;
export const endpointAt = (name: string, tab: Tab | "" = "") => `${BASE}/endpoints/${encodeURIComponent(name)}${tab && `/${tab}`}`;
export const workerAt = (id: number) => `${BASE}/workers/${id}`;
export const at = (page: Page) => `${BASE}/${page}`;
export const workersAt = at("workers");

export const TABS = ["parameters", "use", "try", "what-if", "bill"] as const;
export type Tab = (typeof TABS)[number];
const PAGES = ["workers", "costs", "create", "what-if", "templates", "offers", "keys", "audit"] as const;
export type Page = (typeof PAGES)[number];
export type Place = { page: "overview" | "endpoint" | "worker" | "none" | Page; name: string; tab: Tab | "" };

export function place(path = location.pathname): Place {
  const [page = "", name = "", tab = "", ...more] = path.slice(BASE.length).split("/").filter(Boolean);
  const none: Place = { page: "none", name: path, tab: "" };
  if (!page) return { page: "overview", name: "", tab: "" };
  if (more.length) return none;
  if (page === "endpoints" && name && (!tab || (TABS as readonly string[]).includes(tab))) return { page: "endpoint", name: decoded(name), tab: tab as Tab | "" };
  if (tab) return none;
  if (page === "workers" && name) return { page: "worker", name, tab: "" };
  return !name && (PAGES as readonly string[]).includes(page) ? { page: page as Page, name: "", tab: "" } : none;
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
