/** An endpoint's own traffic under two settings, side by side. */
import { useEffect, useRef, useState } from "preact/hooks";
import { call, Failed, mayOperate, type Endpoint, type Run, type Session, type Standing, type WhatIf } from "../api";
import { Head } from "../app";
import { Chart, type Line } from "../chart";
import { SelectField, TextField, wrongOf } from "../fields";
import { useLive } from "../live";
import { PARAMETERS, changes, written, type Value } from "../parameters";
import { Card, Choice, Confirm, Empty, Loading, Problem, Time, count, say, span, usd } from "../parts";
import { at, endpointAt, go } from "../route";
import { Difference } from "./parameters";

const RANGES = [["3600", "1 h"], ["86400", "24 h"], ["604800", "7 d"]] as const;
const LEAST = 0.02; // differences in money below this share are none: replays are not nearer than that

/** Of which endpoint? */
export function WhatIfPage() {
  const { endpoints, status } = useLive();
  const names = [...endpoints.values()].map((one) => one.endpoint).sort();
  return (
    <>
      <Head><h1>What if</h1><span class="sub">an endpoint's own traffic under other settings</span></Head>
      <Card title="Of which endpoint?">
        {!status ? <Loading /> : !names.length ? (
          <Empty title="No endpoint yet"><p>Once one has traffic, it can be played again under other settings.</p><a class="button" href={at("create")}>Create an endpoint</a></Empty>
        ) : (
          <ul class="picks">{names.map((name) => <li><a class="row" href={endpointAt(name, "what-if")}><bdi>{name}</bdi></a></li>)}</ul>
        )}
      </Card>
    </>
  );
}

export function WhatIfTab({ one, path, settings, again, session }: { one: Standing; path: string; settings: Endpoint; again: () => void; session: Session }) {
  const asked = new URLSearchParams(location.search);
  const [form, setForm] = useState<Record<string, string>>(() => Object.fromEntries(PARAMETERS.filter(({ key }) => asked.has(key)).map(({ key }) => [key, asked.get(key)!])));
  const [last, setLast] = useState(RANGES.some(([key]) => key === asked.get("last")) ? asked.get("last")! : "86400");
  const [found, setFound] = useState<WhatIf | null>(null);
  const [error, setError] = useState<Failed | null>(null);
  const [since, setSince] = useState(0);
  const stop = useRef<AbortController | null>(null);
  const [applies, setApplies] = useState(false);
  useEffect(() => () => stop.current?.abort(), []);
  const change = changes(form, settings);
  const any = Object.keys(change).length > 0;

  const play = async () => {
    stop.current?.abort();
    const abort = (stop.current = new AbortController());
    const query = new URLSearchParams({ ...Object.fromEntries(Object.entries(change).map(([key, value]) => [key, String(value)])), last });
    history.replaceState(null, "", `${location.pathname}?${query}`);
    setError(null);
    setSince(Date.now());
    try {
      setFound(await call<WhatIf>("POST", `${path}/what-if`, { change, last_s: Number(last) }, abort.signal));
    } catch (problem) {
      if (!abort.signal.aborted) setError(problem as Failed);
    }
    setSince(0);
  };
  useEffect(() => { if (any) void play(); }, []); // an address that names a change shows it

  return (
    <div class="stack wide">
      <Card title="Change" sub="its own traffic is played twice: as it is, and with the change" right={<Choice label="Traffic of the last" value={last} options={RANGES} choose={(value) => setLast(value)} />}>
        <form class="body grid4" onSubmit={(e) => { e.preventDefault(); if (any && !since) void play(); }}>
          {PARAMETERS.map(({ key, name, unit, choices, optional, absent }) => {
            const common = { key, label: name, wire: key, value: form[key] ?? written(settings[key] as Value), set: (value: string) => setForm({ ...form, [key]: value }), wrong: wrongOf(error, key) };
            return choices ? <SelectField {...common} options={choices.map((each) => [each, each] as const)} /> : <TextField {...common} numeric unit={unit} placeholder={absent ?? (optional ? "none" : undefined)} />;
          })}
          <div class="acts foot">
            <button class="button primary" type="submit" disabled={!any || since > 0}>{since ? "Playing" : "Play both"}</button>
            {any && <button class="button" type="button" onClick={() => setForm({})}>Take back</button>}
            {!any && <span class="sub">Change at least one value.</span>}
            {since > 0 && <Playing since={since} />}
          </div>
        </form>
        {error && <Problem error={error} again={any ? play : undefined} />}
      </Card>
      {found && <Found found={found} apply={mayOperate(session) ? () => setApplies(true) : undefined} />}
      {found && applies && (
        <Confirm title={`Apply B to ${one.endpoint}?`} verb="Apply" close={() => setApplies(false)} act={() => call("PUT", `/api/v0/endptjobs/${one.id}`, wire(found.change)).then(() => { say(`${one.endpoint} is changed.`, { undo: () => call("PUT", `/api/v0/endptjobs/${one.id}`, wire(found.present)).then(again) }); setForm({}); again(); go(endpointAt(one.endpoint)); })}>
          <p>The next decision is made with it.</p>
          <Difference body={found.change as Record<string, Value>} settings={found.present} />
        </Confirm>
      )}
    </div>
  );
}

const wire = (change: WhatIf["change"]) => Object.fromEntries(Object.entries(change).map(([key, value]) => [key, value ?? "none"]));

function Playing({ since }: { since: number }) {
  const [, tick] = useState(0);
  useEffect(() => { const timer = setInterval(() => tick((n) => n + 1), 1000); return () => clearInterval(timer); }, []);
  return <span class="sub" role="status">for {span((Date.now() - since) / 1000)}; it takes up to three minutes</span>;
}

function Found({ found, apply }: { found: WhatIf; apply?: () => void }) {
  const [was, a, b] = found.runs as [Run, Run, Run];
  const hours = found.span_s / 3600;
  const saved = a.usd - b.usd;
  const share = a.usd ? saved / a.usd : 0;
  const none = Math.abs(share) < LEAST;
  const slower = b.p95_s - a.p95_s;
  const money = none ? "B costs about the same as A" : `B ${saved > 0 ? "saves" : "costs"} ${usd(Math.abs(saved))}${saved > 0 ? "" : " more"} in ${span(found.span_s)} (${saved > 0 ? "−" : "+"}${Math.round(100 * Math.abs(share))} %)`;
  const waits = Math.abs(slower) < 0.05 ? "the slowest 5 % wait as long" : `the slowest 5 % wait ${span(Math.abs(slower))} ${slower > 0 ? "longer" : "less"}`;
  const off = was.usd ? a.usd / was.usd - 1 : 0;
  const common = { last: found.span_s, now: found.since + found.span_s };
  const at = (run: Run) => run.at.map((t) => found.since + t);
  const pair = (pick: (run: Run) => number[], step = false): { at: number[]; lines: Line[] } => {
    const times = [...new Set([...at(a), ...at(b)])].sort((x, y) => x - y);
    const on = (run: Run) => { const own = new Map(at(run).map((t, i) => [t, pick(run)[i] ?? null])); let kept: number | null = null; return times.map((t) => (kept = own.get(t) ?? kept)); };
    return { at: times, lines: [{ name: "A", values: on(a), ink: "hot", step, width: 1.5 }, { name: "B", values: on(b), ink: "compare", dash: true, step, width: 2 }] };
  };
  const capacity = pair((run) => run.ready, true);
  const load = pair((run) => run.load).lines[0]!;
  capacity.lines[0] = { ...capacity.lines[0]!, name: "Ready, A", fill: "hot-area" };
  capacity.lines[1] = { ...capacity.lines[1]!, name: "Ready, B" };
  return (
    <>
      <section class="card" aria-label="What it comes to">
        <div class="ab">
          <Side name="A, as it is" run={a} ink="hot" goal={found.goal_s} hours={hours} />
          <Side name="B, with the change" run={b} ink="compare" goal={found.goal_s} hours={hours} />
        </div>
        <div class="body stack">
          <p class="sentence">{money}, and {waits}.</p>
          <p class="muted">{count(found.requests, "request")} of {span(found.span_s)} since <Time at={found.since} seconds={false} />. {was.usd > 0 && `The replay of A is ${Math.abs(100 * off) < 0.5 ? "as dear as" : `${Math.abs(100 * off).toFixed(0)} % ${off > 0 ? "dearer" : "cheaper"} than`} what was really paid. `}Take differences below 2 % as none.</p>
          <Difference body={found.change as Record<string, Value>} settings={found.present} />
          <div class="acts"><button class="button primary" type="button" disabled={!apply} title={apply ? undefined : "Needs a key with the scope operate"} onClick={apply}>Apply B…</button></div>
        </div>
      </section>
      <section class="card" aria-label="Load and ready capacity">
        <Chart {...common} title="Load and ready capacity" unit="work/s" height={220} show={(v) => (v == null ? "–" : String(Number(v.toPrecision(3))))} at={capacity.at} lines={[...capacity.lines, { ...load, name: "Load", ink: "load", width: 1.25 }]} />
      </section>
      <div class="pair">
        <section class="card" aria-label="Spend since the beginning"><Chart {...common} {...pair((run) => run.spent_usd)} title="Spend since the beginning" unit="$" height={170} show={(v) => (v == null ? "–" : usd(v))} /></section>
        <section class="card" aria-label="Requests waiting"><Chart {...common} {...pair((run) => run.waiting, true)} title="Requests waiting" unit="" whole height={170} show={(v) => (v == null ? "–" : String(Math.round(v)))} /></section>
      </div>
      <Card title="Side by side">
        <div class="scrolls" tabIndex={0} role="region" aria-label="Figures of each"><table class="table slim">
          <thead><tr><th scope="col">In {span(found.span_s)}</th><th scope="col" class="number extra">As it was</th><th scope="col" class="number">A<span class="extra">, as it is</span></th><th scope="col" class="number">B<span class="extra">, with the change</span></th><th scope="col" class="number">Difference</th></tr></thead>
          <tbody>{MEASURES.map(([name, pick, show, good]) => <Measure name={name} values={[pick(was), pick(a), pick(b)]} show={show} good={good} />)}</tbody>
        </table></div>
      </Card>
      {found.notes.length > 0 && <Card title="What was assumed"><ul class="body notes">{found.notes.map((text) => <li>{text[0]!.toUpperCase() + text.slice(1)}.</li>)}</ul></Card>}
    </>
  );
}

function Side({ name, run, ink, goal, hours }: { name: string; run: Run; ink: string; goal: number; hours: number }) {
  return (
    <div class="tile">
      <span class="name"><i class={`key ink-${ink}`} /> {name}</span>
      <span class="value">{usd(run.usd)}<span class="unit">{hours > 0 && `${usd(run.usd / hours)}/h`}</span></span>
      <span class="sub">p95 wait {span(run.p95_s)}; {(100 * (1 - run.late)).toFixed(1)} % of the work within {span(goal)}</span>
    </div>
  );
}

const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
const whole = (value: number) => value.toLocaleString("en-US");
const hoursOf = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} h`;
/** Name, figure, how it is written, and what is good: -1 less, 1 more, 0 neither. */
const MEASURES: [string, (run: Run) => number, (value: number) => string, -1 | 0 | 1][] = [
  ["Cost", (r) => r.usd, usd, -1],
  ["p50 wait for a worker", (r) => r.p50_s, span, -1],
  ["p95 wait for a worker", (r) => r.p95_s, span, -1],
  ["p99 wait for a worker", (r) => r.p99_s, span, -1],
  ["Work that waited too long", (r) => r.late, percent, -1],
  ["Requests not served", (r) => r.unserved, whole, -1],
  ["Workers rented", (r) => r.rents, whole, 0],
  ["Starts from cold", (r) => r.starts, whole, 0],
  ["Worker-hours ready", (r) => r.ready_h, hoursOf, 0],
  ["Worker-hours loading", (r) => r.loading_h, hoursOf, 0],
  ["Worker-hours cold", (r) => r.stopped_h, hoursOf, 0],
  ["Ready time in use", (r) => r.busy, percent, 1],
];

function Measure({ name, values, show, good }: { name: string; values: [number, number, number]; show: (value: number) => string; good: -1 | 0 | 1 }) {
  const [was, a, b] = values;
  const by = b - a;
  const text = show(Math.abs(by));
  const none = text === show(0) || (name === "Cost" && Math.abs(by) < LEAST * a);
  const kind = none || !good ? "" : Math.sign(by) === good ? "good" : "bad";
  return <tr><th scope="row">{name}</th><td class="number extra">{show(was)}</td><td class="number">{show(a)}</td><td class="number"><b>{show(b)}</b></td><td class={`number ${kind}`}>{none ? "none" : `${by < 0 ? "−" : "+"}${text}`}</td></tr>;
}
