/** Ctrl K: find a page, an endpoint or a worker by typing, or do what the open page offers. */
import { useEffect, useId, useState } from "preact/hooks";
import { useAnswer, useLive } from "./live";
import { type Worker } from "./api";
import { gpu, lookWord, useDialog } from "./parts";
import { endpointAt, go, workerAt } from "./route";
import { Said } from "./text";

type Found = { title: string; note: string; choose: () => void };
const MOST = 50;

/** What the buttons and links there offer; those with dots ask first. */
function offered(place: string, note: string): Found[] {
  return [...document.querySelectorAll<HTMLElement>(`${place} :is(button:not(:disabled), a)`)].map((one) => {
    const title = one.textContent ?? "";
    return { title, note, choose: () => one.textContent === title && one.click() }; // it may be another by now
  });
}

/** What can be done on the page that is open, and on every page. */
function acts(): [Found[], Found[]] {
  const here = document.querySelector("main h1")?.textContent ?? "";
  const own = [...offered(".toasts", "just now"), ...offered("main .head .line", here), ...offered(".tabs", here)];
  return [own, offered(".rail .foot", "Posthouse")];
}

export function Palette({ pages, close }: { pages: readonly (readonly [string, string])[]; close: () => void }) {
  const ref = useDialog();
  const id = useId();
  const { endpoints } = useLive();
  const workers = useAnswer<Worker[]>("/v1/workers");
  const [[own, always]] = useState(acts);
  const [text, setText] = useState("");
  const [active, setActive] = useState(0);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const to = (title: string, note: string, address: string): Found => ({ title, note, choose: () => go(address) });
  const all = [
    ...own.filter((one) => !pages.some(([title]) => title === one.title)),
    ...pages.map(([title, address]) => to(title, "page", address)),
    ...[...endpoints.values()].map((one) => to(one.endpoint, "endpoint", endpointAt(one.endpoint))),
    ...always,
    ...(words.length ? (workers.value ?? []) : []).map((one) => to(`Worker ${one.id}`, `${lookWord(one.look)}, ${gpu(one)}, of ${one.endpoint}`, workerAt(one.id))),
  ];
  const has = (one: Found) => words.every((word) => `${one.title} ${one.note}`.toLowerCase().includes(word));
  const begins = (one: Found) => Number(words.length > 0 && one.title.toLowerCase().startsWith(words.join(" ")));
  const shown = all.filter(has).sort((a, b) => begins(b) - begins(a)).slice(0, MOST);
  const at = Math.min(active, shown.length - 1);
  const choose = (one?: Found) => {
    if (!one) return;
    close();
    setTimeout(one.choose); // once the focus is back where it was
  };
  const press = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter") choose(shown[at]);
    else if (step) setActive((at + step + shown.length) % (shown.length || 1));
    else return;
    event.preventDefault();
  };
  useEffect(() => document.getElementById(`${id}${at}`)?.scrollIntoView({ block: "nearest" }), [at]);
  return (
    <dialog class="dialog palette" ref={ref} aria-label="Find or do" onClose={close} onClick={(e) => e.target === e.currentTarget && close()}>
      <input role="combobox" aria-label="Find a page, an endpoint, a worker, or what to do" aria-expanded="true" aria-controls={id} aria-activedescendant={shown.length ? `${id}${at}` : undefined} aria-autocomplete="list"
        placeholder="Find or do…" autocomplete="off" spellcheck={false} maxLength={255} value={text} onInput={(e) => { setText(e.currentTarget.value); setActive(0); }} onKeyDown={press} />
      <ul id={id} role="listbox" aria-label="Found">
        {shown.map((one, i) => (
          <li id={`${id}${i}`} role="option" aria-selected={i === at} onClick={() => choose(one)}><Said text={one.title} most={120} /><small><Said text={one.note} most={80} /></small></li>
        ))}
      </ul>
      <p class="help" role="status">{shown.length ? `${shown.length === MOST ? `the first ${MOST}` : shown.length} found` : `Nothing has “${text}”.`}</p>
    </dialog>
  );
}
