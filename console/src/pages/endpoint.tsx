import { useEffect, useMemo, useState } from "preact/hooks";
import { call, mayOperate, type Endpoint, type Failed, type History, type JournalEntry, type Session, type Standing, type Worker } from "../api";
import { Head } from "../app";
import { Chart, type Line } from "../chart";
import { inPath, live, useAnswer, useLive } from "../live";
import { CapacityBar, CapacityLegend, Card, Choice, Confirm, Empty, Glyph, Loading, Pill, Problem, Tile, Time, VerdictRow, conditionOf, count, say, span, usd, work } from "../parts";
import { PARAMETERS, type Value } from "../parameters";
import { ask, asked, endpointAt, go, home, type Tab } from "../route";
import { Said } from "../text";
import { BillTab } from "./bill";
import { CapBar } from "./overview";
import { ParametersTab } from "./parameters";
import { Playground } from "./playground";
import { UseTab } from "./use";
import { WhatIfTab } from "./whatif";
import { WorkerTable } from "./workers";

const RANGES = [["900", "15 min"], ["", "1 h"], ["21600", "6 h"], ["86400", "24 h"], ["604800", "7 d"], ["2592000", "30 d"]] as const;

const TABS: [Tab | "", string][] = [["", "Now"], ["parameters", "Parameters"], ["use", "Use"], ["try", "Try"], ["what-if", "What if"], ["bill", "Bill"]];

export function EndpointPage({ name, tab, session }: { name: string; tab: Tab | ""; session: Session }) {
  const { endpoints, status } = useLive();
  const one = [...endpoints.values()].find((found) => found.endpoint === name);
  const crumbs = <a href={home}>Overview</a>;
  if (!one)
    return (
      <>
        <Head crumbs={crumbs}><h1><Said text={name} /></h1></Head>
        {status ? <Card title="Not found"><Empty title="There is no such endpoint"><p>It was renamed or deleted, or your key does not see it.</p><a class="button" href={home}>To the endpoints</a></Empty></Card> : <Loading lines={6} />}
      </>
    );
  return <Known one={one} tab={tab} session={session} crumbs={crumbs} />;
}

function Known({ one, tab, session, crumbs }: { one: Standing; tab: Tab | ""; session: Session; crumbs: preact.ComponentChildren }) {
  const path = `/v1/endpoints/${inPath(one)}`;
  const [word, look] = conditionOf(one);
  const { value, error, again } = useAnswer<{ result: Endpoint }>(`/api/v0/endptjobs/${one.id}`, { everyMs: 30_000 });
  const settings = value?.result;
  const props = { one, path, session, again };
  const shown = () => {
    if (!tab) return <Now {...props} settings={settings} />;
    if (!settings) return error ? <Card title="Endpoint"><Problem error={error} again={again} /></Card> : <Loading lines={6} />;
    switch (tab) {
      case "parameters": return <ParametersTab {...props} settings={settings} />;
      case "bill": return <BillTab path={path} name={one.endpoint} />;
      case "use": return <UseTab settings={settings} />;
      case "what-if": return <WhatIfTab {...props} settings={settings} />;
      default: return <Card title="Try it" sub="sent by the server to one of its workers"><div class="body"><Playground name={one.endpoint} path={path} model={one.endpoint} /></div></Card>;
    }
  };
  return (
    <>
      <Head crumbs={crumbs}>
        <h1><Said text={one.endpoint} /></h1>
        <Pill look={look}>{word}</Pill>
        <Acts one={one} session={session} done={again} />
      </Head>
      <nav class="tabs" aria-label="Of this endpoint">
        {TABS.map(([key, title]) => <a href={endpointAt(one.endpoint, key)} aria-current={key === tab ? "page" : undefined}>{title}</a>)}
      </nav>
      {shown()}
    </>
  );
}

function Now({ one, path, settings: scaling }: { one: Standing; path: string; settings?: Endpoint }) {
  const range = RANGES.some(([key]) => key === asked("range")) ? asked("range") : "";
  const last = Number(range || 3600);
  const { figures } = one;
  const decisions = useDecisions(path, one.id);
  const cap = live.status?.caps.find((c) => c.endpoint === one.endpoint && c.cap === "max_usd_h");
  return (
    <>
      <div class="columns">
        <div>
          <section class="card" aria-label="Now">
            <div class="body">
              <p class="sentence">{sentence(one)}</p>
              <p class="muted">{facts(one)}</p>
              <CapacityBar figures={figures} tall />
              <CapacityLegend figures={figures} />
            </div>
            {one.verdict && <ul class="verdicts"><VerdictRow verdict={one.verdict} standing={one} level={2} /></ul>}
            <div class="tiles">
              <Tile name="Waiting" value={figures.waiting} bad={figures.waiting > 0}>{figures.waiting ? `the oldest ${span(figures.oldest_wait_s)}` : "every request has a worker"}</Tile>
              <Tile name="p95 wait, 5 min" value={<Split text={span(figures.p95_wait_s)} />}>{scaling && `capacity is added beyond ${span(scaling.target_queue_time)}`}</Tile>
              <Tile name="Spend now" value={usd(figures.usd_h)} unit="/h" bar={cap && <CapBar cap={cap} used={figures.usd_h} />}>{cap ? `of ${usd(cap.limit)}/h, ${usd(Math.max(0, cap.limit - figures.usd_h))}/h left` : "no cap by the hour"}</Tile>
              <Tile name="Spent so far" value={usd(one.spent_usd)}>by every worker that it had</Tile>
            </div>
          </section>
          <div class="filters end"><Choice label="Range" value={range as ""} options={RANGES as readonly (readonly ["", string])[]} choose={(value) => ask("range", value)} /></div>
          <Charts path={path} last={last} one={one} scaling={scaling} decisions={decisions.value ?? []} />
          <Workers one={one} />
        </div>
        <div>
          <Decisions {...decisions} />
          {scaling && <Parameters scaling={scaling} name={one.endpoint} />}
        </div>
      </div>
    </>
  );
}

/** A figure with its unit set small. */
export function Split({ text }: { text: string }) {
  const match = /^([\d.,]+)\s(.+)$/.exec(text);
  return match ? <>{match[1]}<span class="unit">{match[2]}</span></> : <>{text}</>;
}

function sentence(one: Standing): string {
  const { looks } = one.figures;
  const [hot, loading] = [looks.hot ?? 0, looks.loading ?? 0];
  const coming = loading ? `, and ${loading === 1 ? "one more is" : `${loading} more are`} coming` : "";
  switch (one.condition) {
    case "suspended": return "Suspended: nothing is rented, woken or released until it is resumed.";
    case "stopped": return "Stopped: every worker is made to rest.";
    case "deleting": return "Deleting: workers finish what they have and are destroyed.";
    case "short": return "Short of capacity.";
    case "starting": return loading ? `${count(loading, "worker")} on the way${hot ? `, ${hot} hot` : ""}.` : "About to grow.";
    case "busy": return `${count(hot, "hot worker")}, each with as much as it may have${coming}.`;
    case "at_rest": return "At rest: nothing is asked of it, and no worker runs hot.";
    default: return hot ? `${count(hot, "hot worker")} ${hot === 1 ? "is" : "are"} enough${coming}.` : `Enough${coming}.`;
  }
}

function facts(one: Standing): string {
  const { load, need, hot, coming, cold } = one.figures;
  const parts = [`${work(hot)} is hot`, coming > 0 && `${work(coming)} is coming`, cold > 0 && `${work(cold)} is cold`].filter(Boolean) as string[];
  const supply = parts.length > 1 ? `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}` : parts[0];
  return `The load of ${work(load)} work/s needs ${work(need)}. ${supply}.`;
}

/** Suspend, stop, resume and delete. Those that cost or end something ask first. */
function Acts({ one, session, done }: { one: Standing; session: Session; done: () => void }) {
  const [asks, setAsks] = useState<"suspend" | "stop" | "delete" | null>(null);
  const may = mayOperate(session);
  const why = may ? undefined : "Needs a key with the scope operate";
  const path = `/api/v0/endptjobs/${one.id}`;
  const put = (state: string) => call("PUT", path, { endpoint_state: state }).then(() => { done(); return live.load(); });
  const resume = () => put("active").then(() => say(`${one.endpoint} is resumed.`, { undo: () => put(one.state) }), (e: Failed) => say(e.message, { bad: true }));
  const workers = Object.entries(one.figures.looks).reduce((sum, [look, n]) => (look === "gone" ? sum : sum + n), 0);
  const close = () => setAsks(null);
  const to = (state: string, said: string) => put(state).then(() => say(`${one.endpoint} is ${said}.`, { undo: () => put("active") }));
  return (
    <span class="right acts">
      {one.state !== "active" ? (
        <button class="button primary" type="button" disabled={!may} title={why} onClick={resume}>Resume</button>
      ) : (
        <>
          <button class="button" type="button" disabled={!may} title={why} onClick={() => setAsks("suspend")}>Suspend…</button>
          <button class="button" type="button" disabled={!may} title={why} onClick={() => setAsks("stop")}>Stop…</button>
        </>
      )}
      <button class="button danger" type="button" disabled={!may} title={why} onClick={() => setAsks("delete")}>Delete…</button>
      {asks === "suspend" && (
        <Confirm title={`Suspend ${one.endpoint}?`} verb="Suspend" close={close} act={() => to("suspended", "suspended")}>
          <p>From then on no worker is rented, woken or released, whatever the load. Its hot workers go on serving, and what is on its way arrives.</p>
          <p>It goes on to cost about <b>{usd(one.figures.usd_h)}/h</b>.</p>
        </Confirm>
      )}
      {asks === "stop" && (
        <Confirm title={`Stop ${one.endpoint}?`} verb="Stop" close={close} act={() => to("stopped", "stopped")}>
          <p>Its workers finish what they have and rest; those that cannot rest go. Requests wait until it is resumed.</p>
          <p>It costs <b>{usd(one.figures.usd_h)}/h</b> now; then only what cold workers cost.</p>
        </Confirm>
      )}
      {asks === "delete" && (
        <Confirm title={`Delete ${one.endpoint}?`} verb="Delete" danger type={one.endpoint} close={close} act={() => call("DELETE", path).then(() => { say(`${one.endpoint} is deleted; its workers go.`); go(home); return live.load(); })}>
          <p>{workers ? `Its ${count(workers, "worker")} finish what they have, then their machines and disks are given back.` : "It has no worker now."} Its key and its settings are gone, which cannot be undone.</p>
          <p>What it ran, its template, stays.</p>
        </Confirm>
      )}
    </span>
  );
}

function Charts({ path, last, one, scaling, decisions }: { path: string; last: number; one: Standing; scaling?: Endpoint; decisions: JournalEntry[] }) {
  const { value, error, again } = useAnswer<History>(`${path}/history?last_s=${last}`, { everyMs: 60_000 });
  const told = useTold(one);
  const drawn = useMemo(() => value && gaps(value, told), [value, told.length]);
  if (error && !value) return <Card title="Load and capacity"><Problem error={error} again={again} /></Card>;
  if (!drawn) return <Card title="Load and capacity"><Loading lines={4} /></Card>;
  if (drawn.at.length < 2)
    return <Card title="Load and capacity"><Empty title="Nothing is measured yet"><p>The first points come within {span(2 * (value?.step_s ?? 5))} of the server's start.</p></Empty></Card>;
  const { at } = drawn;
  const common = { at, last, now: live.now() };
  const sum = (...columns: (number | null)[][]) => at.map((_, i) => columns.reduce<number | null>((all, column) => (all === null || column[i] == null ? null : all + column[i]!), 0));
  const all = sum(drawn.hot, drawn.coming, drawn.cold);
  const marks = decisions.filter((d) => d.title !== "No change").map((d) => ({ at: d.at, title: d.title }));
  const stack = ["hot", "draining", "loading", "failed", "cold"].filter((look) => drawn.looks[look]!.some((n) => n));
  const bands: Line[] = stack.map((look, i) => ({
    name: look[0]!.toUpperCase() + look.slice(1), ink: look, fill: look === "cold" ? "cold-area" : look, step: true, width: 1,
    own: drawn.looks[look]!, values: sum(...stack.slice(0, i + 1).map((key) => drawn.looks[key]!)),
  }));
  return (
    <>
      <section class="card" aria-label="Load and capacity over time">
        <Chart {...common} title="Load and capacity" unit="work/s" show={work} marks={marks} height={210} band={{ between: [0, 1], fill: "cold-area" }} lines={[
          { name: "In all", values: all, ink: "cold", step: true, dash: true, width: 1.25 },
          { name: "Hot", values: drawn.hot, ink: "hot", fill: "hot-area", step: true },
          { name: "Load", values: drawn.load, ink: "load", width: 2 },
        ]} />
      </section>
      <div class="pair">
        <section class="card" aria-label="Workers over time">
          <Chart {...common} title="Workers" unit="" whole show={(v) => (v == null ? "–" : String(Math.round(v)))} height={170}
            lines={[...bands].reverse()} limit={scaling ? { name: `max_workers ${scaling.max_workers}`, value: scaling.max_workers, ink: "cap" } : null} />
        </section>
        <section class="card" aria-label="Spend over time">
          <Chart {...common} title="Spend" unit="$/h" show={(v) => (v == null ? "–" : usd(v))} tick={(v) => `$${Number(v.toPrecision(3))}`} height={170}
            lines={[{ name: "Spend", values: drawn.usd_h, ink: "load", fill: "grid", step: true }]}
            limit={scaling?.max_usd_h != null ? { name: `max_usd_h ${usd(scaling.max_usd_h)}/h`, value: scaling.max_usd_h, ink: "cap" } : null} />
        </section>
      </div>
      <section class="card" aria-label="Queue and waits over time">
        <Chart {...common} title="Requests waiting" unit="" whole show={(v) => (v == null ? "–" : String(Math.round(v)))} height={96}
          lines={[{ name: "Waiting", values: drawn.waiting, ink: "load", fill: "grid", step: true, width: 1.25 }]} />
        <Chart {...common} title="Wait, p95 of 5 min" unit="s" show={(v) => (v == null ? "–" : span(v))} height={110}
          lines={[{ name: "p95", values: drawn.p95_wait_s, ink: "load" }]}
          limit={scaling ? { name: `target_queue_time ${span(scaling.target_queue_time)}`, value: scaling.target_queue_time, ink: "ink-3" } : null} />
      </section>
    </>
  );
}

type Told = { at: number; figures: Standing["figures"] };

/** What the stream told since the page was opened, a point every few seconds: the end of every chart. */
function useTold(one: Standing): Told[] {
  const [told] = useState<Told[]>([]);
  const at = live.now();
  if (at - (told.at(-1)?.at ?? 0) >= TOLD_S) told.push({ at, figures: one.figures });
  if (told.length > 120) told.splice(0, 60);
  return told;
}
const TOLD_S = 2;

type Drawn = { at: number[]; looks: Record<string, (number | null)[]> } & Record<"load" | "need" | "hot" | "coming" | "cold" | "waiting" | "p95_wait_s" | "usd_h", (number | null)[]>;

/** The history with what was told after it. */
function joined(kept: History, told: Told[]): History {
  const end = kept.at.at(-1) ?? 0;
  const more = told.filter(({ at }) => at > end + 1);
  const column = (key: Exclude<keyof History, "at" | "looks" | "step_s">) => [...kept[key], ...more.map(({ figures }) => figures[key])];
  return {
    step_s: kept.step_s,
    at: [...kept.at, ...more.map(({ at }) => at)],
    looks: Object.fromEntries(Object.entries(kept.looks).map(([look, values]) => [look, [...values, ...more.map(({ figures }) => figures.looks[look] ?? 0)]])),
    load: column("load"), need: column("need"), hot: column("hot"), coming: column("coming"), cold: column("cold"),
    waiting: column("waiting"), p95_wait_s: column("p95_wait_s"), usd_h: column("usd_h"),
  };
}

/** Where nothing was measured for a while there is a gap, and never a line across it. */
function gaps(kept: History, told: Told[]): Drawn {
  const history = joined(kept, told);
  const at: number[] = [];
  const from: (number | null)[] = [];
  history.at.forEach((t, i) => {
    const before = history.at[i - 1];
    if (before !== undefined && t - before > Math.max(30, 3 * history.step_s)) {
      at.push(before + history.step_s);
      from.push(null);
    }
    at.push(t);
    from.push(i);
  });
  const pick = (column: number[]) => from.map((i) => (i === null ? null : column[i]!));
  const { load, need, hot, coming, cold, waiting, p95_wait_s, usd_h } = history;
  const columns = Object.fromEntries(Object.entries({ load, need, hot, coming, cold, waiting, p95_wait_s, usd_h }).map(([key, column]) => [key, pick(column)]));
  return { at, looks: Object.fromEntries(Object.entries(history.looks).map(([look, column]) => [look, pick(column)])), ...columns } as Drawn;
}

function Workers({ one }: { one: Standing }) {
  const name = inPath(one);
  const { value, error, again } = useAnswer<Worker[]>(`/v1/workers?endpoint=${name}`, { endpointId: one.id, everyMs: 10_000 });
  return (
    <Card title="Workers" sub={value && (value.length ? count(value.length, "machine") : undefined)}>
      {error && <Problem error={error} again={again} />}
      {!value && !error && <Loading />}
      {value && value.length > 0 && <WorkerTable workers={value} />}
      {value?.length === 0 && <Empty title="No worker runs"><p>{one.state === "active" ? "The first comes with the first request." : "None is rented until it is resumed."}</p></Empty>}
    </Card>
  );
}

function useDecisions(path: string, endpointId: number) {
  const { value, error, again } = useAnswer<JournalEntry[]>(`${path}/journal?limit=60`, { everyMs: 60_000 });
  const [told, setTold] = useState<JournalEntry[]>([]);
  useEffect(() => live.onMove(({ decided, endpointId: id }) => decided && id === endpointId && setTold((all) => [decided as JournalEntry, ...all].slice(0, 60))), [endpointId]);
  const known = new Map([...(value ?? []), ...told].map((d) => [d.at, d]));
  return { value: value && [...known.values()].sort((a, b) => b.at - a.at), error, again };
}

/** Decisions with their reasons. Those that changed nothing are one line. */
function Decisions({ value, error, again }: ReturnType<typeof useDecisions>) {
  const rows: { entry: JournalEntry; quiet: number; until: number }[] = [];
  for (const entry of value ?? []) {
    const last = rows.at(-1);
    if (entry.title === "No change" && last?.quiet) {
      last.quiet += 1;
      last.entry = entry;
    } else rows.push({ entry, quiet: entry.title === "No change" ? 1 : 0, until: entry.at });
  }
  return (
    <Card title="Decisions" sub="the latest first">
      {error && <Problem error={error} again={again} />}
      {!value && !error && <Loading />}
      {value?.length === 0 && <Empty title="Nothing is decided yet"><p>The first decision comes with the first tick.</p></Empty>}
      <ol class="timeline">
        {rows.slice(0, 30).map(({ entry, quiet, until }) => (
          <li key={until} class={quiet ? "quiet" : undefined}>
            <span class="dot">{quiet ? <i /> : <Glyph look={lookOf(entry.title)} />}</span>
            <div>
              <span class="first">
                <b>{quiet > 1 ? `No change, ${quiet} times` : entry.title}</b>
                <Time at={until} />
              </span>
              {!quiet && <p><Said text={entry.text} most={600} /></p>}
            </div>
          </li>
        ))}
      </ol>
    </Card>
  );
}

function lookOf(title: string) {
  if (/^(Wake|Rent)/.test(title)) return "loading" as const;
  if (/^Let/.test(title)) return "cold" as const;
  return /^Destroy/.test(title) ? ("gone" as const) : ("hot" as const);
}

const SHOWN = ["slo_mode", "min_load", "target_util", "cold_mult", "cold_workers", "max_workers", "max_queue_time", "target_queue_time", "max_usd_h", "max_usd_day", "max_usd_month"];

function Parameters({ scaling, name }: { scaling: Endpoint; name: string }) {
  return (
    <Card title="Parameters" right={<a class="button small" href={endpointAt(name, "parameters")}>Change…</a>}>
      <dl class="facts">
        {PARAMETERS.filter(({ key }) => SHOWN.includes(key) && scaling[key] != null).map(({ key, name, show }) => (
          <div><dt>{name}<small><code>{key}</code></small></dt><dd>{show(scaling[key] as Value)}</dd></div>
        ))}
      </dl>
    </Card>
  );
}
