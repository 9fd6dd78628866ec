/** Single keys, off wherever text is typed. */
import { useEffect } from "preact/hooks";
import { at, go, home } from "./route";

export function useKeys(help: () => void, find: () => void): void {
  useEffect(() => {
    let began = 0;
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if ((event.metaKey || event.ctrlKey) && event.key === "k" && !document.querySelector("dialog[open]")) {
        event.preventDefault();
        return find();
      }
      if (event.metaKey || event.ctrlKey || event.altKey || target.closest("input, textarea, select, dialog")) return;
      const after = Date.now() - began < 1200;
      began = 0;
      const to = after && { o: home, w: at("workers"), c: at("costs"), n: at("create"), i: at("what-if"), k: at("keys"), t: at("templates"), p: at("offers"), a: at("audit") }[event.key];
      if (to) {
        event.preventDefault();
        return go(to);
      }
      if (event.key === "g") began = Date.now();
      else if (event.key === "?") help();
      else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
      else if (event.key === "u") [...document.querySelectorAll<HTMLElement>("[data-undo]")].at(-1)?.click();
      else if (event.key === "/") {
        event.preventDefault();
        const field = document.querySelector<HTMLElement>("main input[type=search]");
        if (field) field.focus();
        else find();
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

function step(by: number): void {
  const rows = [...document.querySelectorAll<HTMLElement>("main a.row")];
  const at = rows.indexOf(document.activeElement as HTMLElement);
  rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by))]?.focus();
}
