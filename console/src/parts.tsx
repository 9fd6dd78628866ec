/** Parts that every page uses. */
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { Failed, Figures, Standing, Verdict } from "./api";
import { clock, count, span, usd, whole, work } from "./format";
import { useLive } from "./live";
import { endpointAt } from "./route";
import { Said, plain } from "./text";

export const LOOKS = ["hot", "draining", "loading", "failed", "cold"] as const;
export type Look = (typeof LOOKS)[number] | "gone";

const PATHS = {
  overview: "M2.5 2.5H7V7H2.5zM9 2.5h4.5V7H9zM2.5 9H7v4.5H2.5zM9 9h4.5v4.5H9z",
  workers: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.01M5 11h.01",
  costs: "M8 1.800v12.400M11 4.600C10.400 3.700 9.300 3.400 8 3.400c-1.700 0-3 .8-3 2.200 0 3.100 6.200 1.600 6.200 4.700 0 1.500-1.400 2.300-3.200 2.300-1.500 0-2.700-.5-3.300-1.500",
  create: "M8 3v10M3 8h10",
  "what-if": "M2.500 8h3c3 0 3-4.500 6-4.500h2M5.500 8c3 0 3 4.500 6 4.500h2M11.500 1.500l2 2-2 2M11.500 10.500l2 2-2 2",
  templates: "M2.500 4.500L8 2l5.500 2.500L8 7zM2.500 8L8 10.500 13.500 8M2.500 11.500L8 14l5.500-2.500",
  offers: "M4.500 12.500a3 3 0 0 1-.300-5.980A4 4 0 0 1 12 7.100a2.750 2.750 0 0 1-.500 5.400z",
  keys: "M9.500 9.500a3.500 3.500 0 1 0-3-3L2 11v3h3v-2h2v-2zM10.800 5.200h.01",
  audit: "M5.500 4h8M5.500 8h8M5.500 12h8M2.500 4h.01M2.500 8h.01M2.500 12h.01",
  more: "M2.500 4.500h11M2.500 8h11M2.500 11.500h11",
  theme: "M13 9.500A5.500 5.500 0 0 1 6.500 3 5.500 5.500 0 1 0 13 9.500z",
  out: "M6.500 2.500h-4v11h4M6.500 8h7M10.500 5l3 3-3 3",
  book: "M3 2.500h7.500a2 2 0 0 1 2 2v9H5a2 2 0 0 1-2-2zM3 11.500a2 2 0 0 1 2-2h7.500",
  warn: "M8 2.200l6 10.800H2zM8 6.500v3M8 11.200h.01",
  pause: "M5.500 3.500v9M10.500 3.500v9",
  play: "M5 3l8 5-8 5z",
  down: "M8 2.500v8M4.500 7.500L8 11l3.500-3.500M3 13.500h10",
  search: "M7 2.800a4.200 4.200 0 1 0 0 8.400 4.200 4.200 0 0 0 0-8.400zM10.200 10.200l3.300 3.300",
} as const;

export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}

export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 22 22" aria-hidden="true">
      <rect class="field" width="22" height="22" rx="6" />
      <path class="arch" d="M6.200 16.500V10.800a4.800 4.800 0 0 1 9.600 0v5.700M4.800 16.500h3M14.200 16.500h3" />
    </svg>
  );
}

/** The shape of a look, which says the same as its colour. */
export function Glyph({ look }: { look: Look }) {
  const shapes: Record<Look, ComponentChildren> = {
    hot: <circle class="f" cx="6" cy="6" r="4.500" />,
    loading: [<circle class="s" cx="6" cy="6" r="4.200" />, <path class="f" d="M6 1.800a4.200 4.200 0 0 0 0 8.400z" />],
    cold: <circle class="s" cx="6" cy="6" r="4.200" />,
    draining: [<circle class="s" cx="6" cy="6" r="4.700" />, <path class="s" d="M6 3.500v4.600M4 6.200l2 2 2-2" />],
    failed: [<path class="f" d="M6 .8l5.600 10H.4z" />, <path class="x" d="M6 4.500v2.700M6 9h.01" />],
    gone: <circle class="s dash" cx="6" cy="6" r="4.200" />,
  };
  return (
    <svg class={`glyph is-${look}`} viewBox="0 0 12 12" aria-hidden="true">
      {shapes[look]}
    </svg>
  );
}

const CONDITIONS: Record<string, [string, Look]> = {
  enough: ["Enough", "hot"],
  starting: ["Starting", "loading"],
  short: ["Short", "failed"],
  busy: ["Busy", "loading"],
  at_rest: ["At rest", "cold"],
  updating: ["Updating", "loading"],
  suspended: ["Suspended", "draining"],
  stopped: ["Stopped", "gone"],
  deleting: ["Deleting", "gone"],
};
export const conditionOf = (standing: Standing): [string, Look] => CONDITIONS[standing.condition] ?? ["Unknown", "gone"];

export function Pill({ look, children }: { look: Look; children: ComponentChildren }) {
  return (
    <span class={`pill is-${look}`}>
      <Glyph look={look} />
      {children}
    </span>
  );
}

export const lookWord = (look: string) => look[0]!.toUpperCase() + look.slice(1);

/** What a bar shows: load in hot capacity in all capacity, the need as a tick. */
export function CapacityBar({ figures, tall = false }: { figures: Figures; tall?: boolean }) {
  const { load, need, hot, coming, cold } = figures;
  const all = hot + coming + cold;
  const most = Math.max(load, need, all) * 1.02 || 1;
  const share = (value: number) => `${((100 * value) / most).toFixed(2)}%`;
  const [height, y, thick] = tall ? [20, 6, 8] : [12, 4, 4];
  const served = Math.min(load, hot);
  const over = load - served;
  const label =
    `Load ${work(load)}, need ${work(need)}, hot ${work(hot)}, coming ${work(coming)}, cold ${work(cold)} work per second`;
  return (
    <svg class={`capacity${tall ? " tall" : ""}`} role="img" aria-label={label}>
      <rect class="track" y="2" width="100%" height={height} rx="3" />
      {all > hot && (
        <rect class="all" x="0.300%" y="2.500" width={share(all - most * 0.003)} height={height - 1} rx="2.500" />
      )}
      {hot > 0 && <rect class="under" y="2" width={share(hot)} height={height} rx="3" />}
      {hot > 0 && <rect class="hot" y="2" width={share(hot)} height={height} rx="3" />}
      {served > 0 && <rect class="load" y={2 + y} width={share(served)} height={thick} rx="1.500" />}
      {over > 0.001 * most && (
        <rect class={over <= coming ? "over soon" : "over"} x={share(served)} y={2 + y} width={share(over)} height={thick} rx="1.500" />
      )}
      {need > 0 && <rect class="need" x={share(need - most * 0.002)} y="0" width="2" height={height + 4} />}
    </svg>
  );
}

export function CapacityLegend({ figures }: { figures?: Figures }) {
  const all = figures && figures.hot + figures.coming + figures.cold;
  const entry = (key: string, name: string, value?: number) => (
    <span>
      <i class={`key ${key}`} />
      {name} {figures && <b>{work(value)}</b>}
    </span>
  );
  return (
    <span class="legend">
      {entry("load", "Load", figures?.load)}
      {entry("need", "Need", figures?.need)}
      {entry("hot", "Hot", figures?.hot)}
      {entry("all", figures ? "In all, with coming and cold" : "Coming and cold", all)}
      {figures && <span class="unit">work/s</span>}
    </span>
  );
}

/** A stall for each worker, as far as there is room. */
export function Stalls({ looks }: { looks: Record<string, number> }) {
  const each = LOOKS.flatMap((look) => Array<Look>(looks[look] ?? 0).fill(look));
  const shown = each.slice(0, 12);
  if (!each.length) return <span class="zero">0</span>;
  return (
    <svg class="stalls" width={shown.length * 11 - 3} height="14" aria-hidden="true">
      {shown.map((look, i) => {
        const x = i * 11;
        if (look === "hot") return <rect class="is-hot f" x={x} y="1" width="8" height="12" rx="2" />;
        const outline = <rect class={`is-${look} o`} x={x + 0.5} y="1.500" width="7" height="11" rx="1.500" />;
        if (look === "loading") return [outline, <rect class="is-loading f" x={x + 1} y="7" width="6" height="5" />];
        if (look === "draining") return [outline, <path class="is-draining l" d={`M${x + 1} 12L${x + 7} 2`} />];
        if (look === "failed")
          return [
            <rect class="is-failed f" x={x} y="1" width="8" height="12" rx="2" />,
            <path class="x" d={`M${x + 2.5} 5l3 4M${x + 5.5} 5l-3 4`} />,
          ];
        return outline;
      })}
    </svg>
  );
}

export const gpu = ({ num_gpus, gpu_name }: { num_gpus: number; gpu_name: string }) => (num_gpus ? `${num_gpus}× ${gpu_name}` : gpu_name || "no GPU");

export function looksInWords(looks: Record<string, number>): string {
  return LOOKS.filter((look) => looks[look]).map((look) => `${looks[look]} ${look}`).join(" · ") || "none";
}

/** Shares of a whole, as one bar. */
export function Bar({ parts, label }: { parts: [string, number][]; label?: string }) {
  const all = parts.reduce((sum, [, value]) => sum + value, 0) || 1;
  let x = 0;
  return (
    <svg class="bar" {...(label ? { role: "img", "aria-label": label } : { "aria-hidden": true })}>
      {parts.map(([kind, value]) => {
        const at = x;
        x += (100 * value) / all;
        return value > 0 && <rect class={`is-${kind}`} x={`${at}%`} width={`${Math.max(0, x - at - 0.4)}%`} height="6" />;
      })}
    </svg>
  );
}

export function Tile(props: { name: string; value: ComponentChildren; unit?: string; bar?: ComponentChildren; children?: ComponentChildren; bad?: boolean }) {
  return (
    <div class="tile">
      <span class="name">{props.name}</span>
      <span class="value">
        {props.value}
        {props.unit && <span class="unit">{props.unit}</span>}
      </span>
      {props.bar}
      {props.children && <span class={`sub${props.bad ? " bad" : ""}`}>{props.children}</span>}
    </div>
  );
}

/** Why an endpoint is short: the same row wherever it stands. */
export function VerdictRow({ verdict, standing, level = 3, children }: { verdict: Verdict; standing: Standing; level?: 2 | 3; children?: ComponentChildren }) {
  const Heading = `h${level}` as "h2" | "h3";
  return (
    <li class="verdict">
      <Glyph look={verdict.mends ? "loading" : "failed"} />
      <div>
        <Heading>
          <a href={endpointAt(standing.endpoint)}>
            <Said text={standing.endpoint} most={80} />
          </a>{" "}
          {verdict.title} <code class="tag">{verdict.word}</code>
        </Heading>
        <p>
          {verdict.text} {verdict.said && <q class="said"><Said text={verdict.said} most={240} /></q>}
        </p>
      </div>
      {children && <div class="acts">{children}</div>}
    </li>
  );
}

export function Time({ at, seconds = true }: { at: number; seconds?: boolean }) {
  return (
    <time dateTime={new Date(at * 1000).toISOString()} title={whole(at)}>
      {clock(at, seconds)}
    </time>
  );
}

export function Card(props: { title: ComponentChildren; sub?: ComponentChildren; right?: ComponentChildren; children: ComponentChildren; class?: string }) {
  const id = useId();
  return (
    <section class={`card ${props.class ?? ""}`} aria-labelledby={id}>
      <header>
        <h2 id={id}>{props.title}</h2>
        {props.sub && <span class="sub">{props.sub}</span>}
        {props.right && <span class="right">{props.right}</span>}
      </header>
      {props.children}
    </section>
  );
}

/** Grey bars in the shape of what comes, once it takes longer than a moment. */
export function Loading({ lines = 3 }: { lines?: number }) {
  const [late, set] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => set(true), 300);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div class="loading" role="status" aria-label="Loading">
      {late && Array.from({ length: lines }, (_, i) => <i class={`grey w${i % 3}`} />)}
    </div>
  );
}

export function Problem({ error, again }: { error: Failed; again?: () => void }) {
  return (
    <div class="problem" role="alert">
      <Icon name="warn" />
      <p>
        {error.message}
        {error.requestId && <> The server's log has more under <code>{error.requestId}</code>.</>}
      </p>
      {again && <button class="button small" type="button" onClick={again}>Try again</button>}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <svg class="picture" viewBox="0 0 120 44" aria-hidden="true">
        {[6, 34, 62, 90].map((x) => <path d={`M${x} 40V20a12 12 0 0 1 24 0v20`} />)}
        <path class="ground" d="M0 40.500h120" />
      </svg>
      <h3>{title}</h3>
      {children}
    </div>
  );
}

/** A dialog that is open as long as it is there, and gives the focus back. */
export function useDialog() {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    ref.current?.showModal();
    return () => before?.focus?.();
  }, []);
  return ref;
}

/** A dialog that asks before something is done. With `type`, that text must be typed first. */
export function Confirm(props: { title: string; verb: string; type?: string; danger?: boolean; act: () => Promise<unknown>; close: () => void; children: ComponentChildren }) {
  const ref = useDialog();
  const [typed, setTyped] = useState("");
  const [problem, setProblem] = useState<Failed | null>(null);
  const [busy, setBusy] = useState(false);
  const id = useId();
  const live = useLive();
  const lost = live.connection === "lost";
  const ready = (!props.type || typed.trim() === props.type) && !busy && !lost;
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!ready) return;
    setBusy(true);
    try {
      await props.act();
      props.close();
    } catch (error) {
      setProblem(error as Failed);
      setBusy(false);
    }
  };
  return (
    <dialog class="dialog" ref={ref} aria-labelledby={`${id}t`} onClose={props.close}>
      <form onSubmit={submit} noValidate>
        <h2 id={`${id}t`}>{props.title}</h2>
        <div class="prose">{props.children}</div>
        {props.type && (
          <label class="field" for={`${id}f`}>
            <span>Type <code>{plain(props.type)}</code> to go on</span>
            <input id={`${id}f`} value={typed} autocomplete="off" spellcheck={false} onInput={(e) => setTyped(e.currentTarget.value)} />
          </label>
        )}
        {lost && <p class="bad">The server is not heard now, so nothing can be done.</p>}
        {problem && <Problem error={problem} />}
        <div class="acts">
          <button class="button" type="button" onClick={props.close} autofocus={!props.type}>Cancel</button>
          <button class={`button ${props.danger ? "danger solid" : "primary"}`} type="submit" disabled={!ready}>{props.verb}</button>
        </div>
      </form>
    </dialog>
  );
}

/** What came of an act, said once and shown for a while; errors stay. */
type Toast = { id: number; text: string; undo?: () => Promise<unknown>; bad?: boolean };
let toasts: Toast[] = [];
let showToasts: ((all: Toast[]) => void) | null = null;
let nextToast = 1;

export function say(text: string, options: { undo?: () => Promise<unknown>; bad?: boolean } = {}): void {
  const toast = { id: nextToast++, text, ...options };
  toasts = [...toasts, toast].slice(-3);
  showToasts?.(toasts);
  const end = () => (document.querySelector(".toasts:is(:hover, :focus-within)") ? setTimeout(end, 2000) : unsay(toast.id));
  if (!options.bad) setTimeout(end, 10_000);
}

function unsay(id: number): void {
  toasts = toasts.filter((toast) => toast.id !== id);
  showToasts?.(toasts);
}

const takeBack = ({ id, undo }: Toast) => {
  unsay(id);
  undo!().then(() => say("It is as it was before."), (error: Failed) => say(`It could not be undone. ${error.message}`, { bad: true }));
};

export function Toasts() {
  const [all, set] = useState(toasts);
  showToasts = set;
  return (
    <div class="toasts" role="status" aria-live="polite">
      {all.map((toast) => (
        <div class={`toast${toast.bad ? " bad" : ""}`} key={toast.id}>
          <span>{toast.text}</span>
          {toast.undo && <button class="button small" type="button" data-undo onClick={() => takeBack(toast)}>Undo</button>}
          <button class="button small quiet" type="button" onClick={() => unsay(toast.id)}>Close</button>
        </div>
      ))}
    </div>
  );
}

export function Choice<T extends string>({ label, value, options, choose }: { label: string; value: T; options: readonly (readonly [T, string])[]; choose: (value: T) => void }) {
  return (
    <div class="choice" role="group" aria-label={label}>
      {options.map(([key, name]) => (
        <button type="button" aria-pressed={key === value} onClick={() => choose(key)}>{name}</button>
      ))}
    </div>
  );
}

export const waitingInWords = (waiting: number, oldest: number) => (waiting ? `oldest ${span(oldest)}` : "");
export { count, span, usd, work };
