/** Fields of forms: each with its label, the wire's word, a unit, help, and what is wrong with it. */
import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { call, Failed } from "./api";
import { Icon } from "./parts";

type Common = { label: string; wire?: string; unit?: string; before?: string; help?: ComponentChildren; wrong?: string };

function Framed({ label, wire, unit, before, help, wrong, children }: Common & { children: (id: string, told: string) => ComponentChildren }) {
  const id = useId();
  return (
    <div class={`field${wrong ? " is-wrong" : ""}`}>
      <label for={id}>{label}{wire && <code>{wire}</code>}</label>
      <div class="holds">
        {before && <span class="affix">{before}</span>}
        {children(id, `${id}h`)}
        {unit && <span class="affix">{unit}</span>}
      </div>
      <div id={`${id}h`}>
        {wrong && <p class="wrong"><Icon name="warn" /><span>{wrong}</span></p>}
        {help && <p class="help">{help}</p>}
      </div>
    </div>
  );
}

export function TextField(props: Common & { value: string; set: (value: string) => void; placeholder?: string; numeric?: boolean; autofocus?: boolean; list?: readonly string[]; max?: number }) {
  const { value, set, placeholder, numeric, autofocus, list, max } = props;
  return (
    <Framed {...props}>
      {(id, told) => (
        <>
          <input id={id} value={value} placeholder={placeholder} inputMode={numeric ? "decimal" : undefined} autocomplete="off" spellcheck={false} maxLength={max ?? 4096}
            list={list && `${id}l`} autofocus={autofocus} aria-invalid={props.wrong ? true : undefined} aria-describedby={told} onInput={(e) => set(e.currentTarget.value)} />
          {list && <datalist id={`${id}l`}>{list.map((one) => <option value={one} />)}</datalist>}
        </>
      )}
    </Framed>
  );
}

export function Area(props: Common & { value: string; set: (value: string) => void; rows?: number; mono?: boolean; onEnter?: () => void }) {
  const { value, set, rows = 3, mono, onEnter } = props;
  return (
    <Framed {...props}>
      {(id, told) => (
        <textarea id={id} value={value} rows={rows} class={mono ? "mono" : undefined} spellcheck={!mono} aria-describedby={told} onInput={(e) => set(e.currentTarget.value)}
          onKeyDown={(e) => { if (onEnter && e.key === "Enter" && (e.metaKey || e.ctrlKey)) { e.preventDefault(); onEnter(); } }} />
      )}
    </Framed>
  );
}

export function SelectField(props: Common & { value: string; set: (value: string) => void; options: readonly (readonly [string, string])[] }) {
  return (
    <Framed {...props}>
      {(id, told) => (
        <select id={id} value={props.value} aria-describedby={told} onChange={(e) => props.set(e.currentTarget.value)}>
          {props.options.map(([key, name]) => <option value={key}>{name}</option>)}
        </select>
      )}
    </Framed>
  );
}

/** The field that a message of the server is about: it begins with the field's name. */
export function wrongOf(error: Failed | null | undefined, field: string): string | undefined {
  if (!error || error.status !== 400) return undefined;
  const part = error.message.split("; ").find((text) => text.startsWith(`${field}:`));
  return part && part.slice(field.length + 2);
}

/** What a call answers to a body, asked again a moment after the body has changed. Old answers stay until new ones come. */
export function useTold<T>(path: string, body: unknown, waitMs = 350): { value?: T; error: Failed | null; asking: boolean } {
  const [state, set] = useState<{ value?: T; error: Failed | null; asking: boolean }>({ error: null, asking: false });
  const key = path && JSON.stringify(body);
  const latest = useRef("");
  useEffect(() => {
    if (!path) return set({ error: null, asking: false });
    latest.current = key;
    const stop = new AbortController();
    set((before) => ({ ...before, asking: true }));
    const timer = setTimeout(() => {
      call<T>("POST", path, body, stop.signal).then(
        (value) => set({ value, error: null, asking: false }),
        (error: Failed) => !stop.signal.aborted && set((before) => ({ value: before.value, error, asking: false })),
      );
    }, waitMs);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [path, key]);
  return state;
}

export function CopyButton({ text, small = true }: { text: string; small?: boolean }) {
  const [done, set] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      return; // not over plain HTTP: the text is there to be marked
    }
    set(true);
    setTimeout(() => set(false), 2000);
  };
  return <button class={`button${small ? " small" : ""}`} type="button" onClick={copy}>{done ? "Copied" : "Copy"}</button>;
}
