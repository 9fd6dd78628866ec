/** The parameters of an endpoint: how they are, and what a change would do before it is made. */
import { useState } from "preact/hooks";
import { call, mayOperate, type Endpoint, type Failed, type Foreseen, type Outlook, type Session, type Standing } from "../api";
import { SelectField, TextField, useTold, wrongOf } from "../fields";
import { live } from "../live";
import { PARAMETERS, changes, written, type Value } from "../parameters";
import { Card, Empty, Glyph, Problem, say, usd, work } from "../parts";
import { endpointAt } from "../route";

export function ParametersTab({ one, path, settings, again, session }: { one: Standing; path: string; settings: Endpoint; again: () => void; session: Session }) {
  const [form, setForm] = useState<Record<string, string>>({});
  const [name, setName] = useState<string | null>(null);
  const [refused, setRefused] = useState<Failed | null>(null);
  const [busy, setBusy] = useState(false);
  const renamed: Record<string, string> = name !== null && name.trim() !== settings.endpoint_name ? { endpoint_name: name.trim() } : {};
  const change = changes(form, settings);
  const body = { ...change, ...renamed };
  const changed = Object.keys(body).length > 0;
  const told = useTold<Outlook>(changed ? `${path}/outlook` : "", body);
  const problem = refused ?? told.error;
  const set = (key: string) => (value: string) => { setRefused(null); setForm((before) => ({ ...before, [key]: value })); };
  const may = mayOperate(session);
  const put = async (fields: Record<string, Value>, from: string) => {
    await call("PUT", `/api/v0/endptjobs/${one.id}`, fields);
    const to = fields.endpoint_name as string | undefined;
    if (to && location.pathname === endpointAt(from, "parameters")) history.replaceState(null, "", endpointAt(to, "parameters"));
    await live.load();
    again();
  };
  const save = async () => {
    setBusy(true);
    try {
      const before = Object.fromEntries(Object.keys(body).map((key) => [key, (settings[key as keyof Endpoint] ?? "none") as Value]));
      await put(body, one.endpoint);
      say(`${one.endpoint} is changed.`, { undo: () => put(before, renamed.endpoint_name ?? one.endpoint) });
      setForm({});
      setName(null);
    } catch (error) {
      setRefused(error as Failed);
    }
    setBusy(false);
  };
  return (
    <div class="columns">
      <Card title="Parameters">
        <form class="body grid3" onSubmit={(e) => { e.preventDefault(); if (changed && may && !busy && !told.error) void save(); }}>
          <TextField label="Name" wire="endpoint_name" value={name ?? settings.endpoint_name} max={255} set={(value) => { setRefused(null); setName(value); }} help="Clients ask for it by this name, so they have to know of a change." wrong={wrongOf(problem, "endpoint_name")} />
          {PARAMETERS.map(({ key, name: label, unit, help, choices, optional, absent }) => {
            const common = { key, label, wire: key, help, value: form[key] ?? written(settings[key] as Value), set: set(key), wrong: wrongOf(problem, key) };
            return choices ? <SelectField {...common} options={choices.map((one) => [one, one] as const)} /> : <TextField {...common} numeric unit={unit} placeholder={absent ?? (optional ? "none" : undefined)} />;
          })}
          <button class="hidden" type="submit" tabIndex={-1} aria-hidden="true">Save</button>
        </form>
      </Card>
      <div class="sticky">
        <Card title="What it would do">
          {!changed ? (
            <Empty title="Nothing is changed"><p>Change a value: the next decision, and what it costs, is shown here before anything is saved.</p></Empty>
          ) : (
            <>
              <Difference body={body} settings={settings} />
              {told.value && !problem && <Ahead outlook={told.value} asking={told.asking} />}
              {problem && <Problem error={problem} />}
              <div class="body acts">
                <button class="button primary" type="button" disabled={!may || busy || told.asking || !!problem} title={may ? undefined : "Needs a key with the scope operate"} onClick={save}>Save</button>
                <button class="button" type="button" onClick={() => { setForm({}); setName(null); setRefused(null); }}>Discard</button>
              </div>
            </>
          )}
        </Card>
      </div>
    </div>
  );
}

/** What becomes of what, in the wire's words. */
export function Difference({ body, settings }: { body: Record<string, Value>; settings: Partial<Record<string, unknown>> }) {
  const shown = (key: string, value: Value) => PARAMETERS.find((one) => one.key === key)?.show(value === "none" ? null : value) ?? String(value);
  return (
    <dl class="facts lined diff">
      {Object.entries(body).map(([key, value]) => (
        <div><dt><code>{key}</code></dt><dd><del>{shown(key, (settings[key] ?? null) as Value)}</del> <span aria-hidden="true">→</span><span class="hidden"> becomes </span> <ins>{shown(key, value)}</ins></dd></div>
      ))}
    </dl>
  );
}

function Ahead({ outlook, asking }: { outlook: Outlook; asking: boolean }) {
  const { before, after } = outlook;
  const most = (value: number | null) => (value === null ? "–" : `${usd(value)}/h`);
  const same = before.title === after.title && before.text === after.text;
  return (
    <div class={asking ? "asking" : undefined}>
      <div class="body stack">
        <span class="sub">The next decision would be</span>
        <Decision one={after} />
        <span class="sub">{same ? "The same as without the change." : <>Without the change: {before.title[0]!.toLowerCase() + before.title.slice(1)}.</>}</span>
      </div>
      <dl class="facts lined">
        <div><dt>Hot capacity wanted</dt><dd>{work(before.need)} → {work(after.need)} work/s</dd></div>
        <div><dt>Cost once that is done</dt><dd>{usd(before.usd_h)}/h → <b>{usd(after.usd_h)}/h</b></dd></div>
        <div><dt>At most, at any load</dt><dd>{most(outlook.most_before_usd_h)} → <b>{most(outlook.most_after_usd_h)}</b></dd></div>
      </dl>
    </div>
  );
}

function Decision({ one }: { one: Foreseen }) {
  return (
    <div class="named">
      <Glyph look={one.title === "No change" ? "hot" : "loading"} />
      <b>{one.title}</b>
      <small class="wraps">{one.text}</small>
    </div>
  );
}
