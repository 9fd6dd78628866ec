/** Where the money goes now and went over time, and what the caps leave. */
import { type Costs as Told, type MoneyLeft, type Standing, type Worker } from "../api";
import { Head } from "../app";
import { Chart, type Line } from "../chart";
import { live, useAnswer, useLive } from "../live";
import { Bar, Card, Choice, Empty, Loading, Problem, Tile, Time, count, gpu, usd } from "../parts";
import { ask, asked, endpointAt, home } from "../route";
import { Said } from "../text";

const BY = [["", "Endpoint"], ["key", "Key"], ["gpu", "GPU"], ["provider", "Provider"], ["state", "State"]] as const;
const RANGES = [["", "24 h"], ["604800", "7 d"], ["2592000", "30 d"], ["31536000", "1 year"]] as const;

/** What a worker is paid for now. Resting it is storage: a disk that is kept. */
const FOR = ["Working", "Idle", "Starting", "Storage", "Failed"] as const;
type For = (typeof FOR)[number];
/** What was paid for: that, and what gateways paid to servers of others, which have no worker here. */
const PAST = [...FOR, "External"] as const;
const KIND: Record<(typeof PAST)[number], string> = { Working: "hot", Idle: "hot-2", Starting: "loading", Storage: "cold-2", Failed: "failed", External: "gone" };
function paidFor(worker: Worker): For {
  switch (worker.look) {
    case "cold": return "Storage";
    case "failed": return "Failed";
    case "loading": return "Starting";
    default: return worker.outstanding > 0 ? "Working" : "Idle";
  }
}

type Sum = { name: string; deleted?: boolean; usdH: number; workers: number; parts: Record<For, number> };

export function Costs() {
  const { endpoints, status } = useLive();
  const by = asked("by");
  const last = Number(asked("range") || 86_400);
  const range = RANGES.find(([key]) => Number(key || 86_400) === last)?.[1] ?? "24 h";
  const { value, error, again } = useAnswer<Worker[]>("/v1/workers", { everyMs: 5000 });
  const query = `last_s=${last}&by=${by || "endpoint"}`;
  const past = useAnswer<Told>(`/v1/costs?last_s=${last}&by=state`, { everyMs: 60_000 });
  const split = useAnswer<Told>(`/v1/costs?${query}`, { everyMs: 60_000 });
  const all = [...endpoints.values()];
  const keyOf = (one: Worker) => ({ gpu: gpu(one), provider: one.provider, state: paidFor(one) })[by] ?? one.endpoint;
  const sums = by === "key" ? [] : summed(value ?? [], keyOf);
  const told = split.value?.lines.map((line) => ({ name: named(line.name, by), deleted: line.deleted })) ?? [];
  for (const one of [...told, ...(by ? [] : all.map((one) => ({ name: one.endpoint, deleted: false })))])
    if (!sums.some((sum) => same(sum, one))) sums.push({ ...one, usdH: 0, workers: 0, parts: none() });
  const whole = summed(value ?? [], () => "")[0];
  const spend = whole?.usdH ?? 0;
  const external = past.value?.lines.find((line) => line.name === "external")?.usd;
  const caps = status?.caps ?? [];
  const hour = caps.find((one) => !one.endpoint && one.cap === "max_usd_h");
  return (
    <>
      <Head><h1>Costs</h1><span class="right"><a class="button" href={`/v1/costs?${query}&as_csv=true`} download>CSV</a></span></Head>
      {error && <Card title="Costs"><Problem error={error} again={again} /></Card>}
      <section class="card tiles" aria-label="Now">
        <Tile name="Spend now" value={usd(spend)} unit="/h" bar={<Bar parts={whole ? FOR.map((part) => [KIND[part], whole.parts[part]]) : [["none", 1]]} />}>{value ? count(value.length, "worker") : ""}</Tile>
        <Tile name="Idle now" value={usd(whole?.parts.Idle ?? 0)} unit="/h">{spend ? `${Math.round((100 * whole!.parts.Idle) / spend)} % of it: ready, without a request` : "nothing runs"}</Tile>
        <Tile name="Storage now" value={usd(whole?.parts.Storage ?? 0)} unit="/h">disks of workers that rest</Tile>
        <Tile name={`In the last ${range}`} value={past.value ? usd(past.value.usd) : "–"}>{past.value && `${usd(past.value.idle_usd)} idle, ${usd(past.value.storage_usd)} storage${external ? `, ${usd(external)} external` : ""}`}</Tile>
      </section>
      <div class="columns">
        <div>
          <div class="filters end"><Choice label="Range" value={asked("range") as ""} options={RANGES as readonly (readonly ["", string])[]} choose={(value) => ask("range", value)} /></div>
          <section class="card" aria-label="Spend over time">
            {past.value ? <Over told={past.value} last={last} limit={hour?.limit} /> : <Loading lines={3} />}
          </section>
          <Card title={`By ${by || "endpoint"}`} right={<Choice label="By" value={by as ""} options={BY as readonly (readonly ["", string])[]} choose={(value) => ask("by", value)} />}>
            {split.error && <Problem error={split.error} again={split.again} />}
            {!value && !error && <Loading />}
            {value && !split.error && !sums.length && <Empty title="Nothing costs anything"><p>No worker runs, and none did in the range.</p><a class="button" href={home}>To the endpoints</a></Empty>}
            {sums.length > 0 && <Table sums={sums} by={by} told={split.value} all={all} spend={spend} range={range} />}
            {by === "key" ? <p class="pad help">In each hour keys share what an endpoint cost in proportion to the work that they asked for.</p>
              : <p class="pad legend">{FOR.map((part) => <span><i class={`key fill-${KIND[part]}`} />{part}</span>)}</p>}
          </Card>
        </div>
        <Caps caps={caps} />
      </div>
    </>
  );
}

/** What was spent in each hour or day, stacked by what it was for; the last one as far as it has come. */
function Over({ told, last, limit }: { told: Told; last: number; limit?: number }) {
  const now = live.now();
  const daily = told.step_s > 3600;
  const of = (part: string) => told.lines.find((line) => named(line.name, "state") === part)?.usd_of;
  const held = (values: number[]) => [...values, values.at(-1) ?? 0]; // until now
  let below = told.begin.map(() => 0);
  const lines: Line[] = [];
  for (const part of PAST) {
    const own = of(part);
    if (!own) continue;
    below = below.map((usd, i) => usd + own[i]!);
    const ink = KIND[part].replace("cold-2", "cold");
    lines.unshift({ name: part, ink, fill: ink, width: 1, step: true, own: held(own), values: held(below) });
  }
  if (!lines.length) lines.push({ name: "All", ink: "load", values: held(below), step: true });
  return <Chart title="Spend" unit={daily ? "$ in each day" : "$ in each hour"} at={[...told.begin, now]} last={last} now={now} height={200} show={(v) => (v == null ? "–" : usd(v))} tick={(v) => `$${Number(v.toPrecision(3))}`}
    lines={lines} limit={limit === undefined || daily ? null : { name: `max_usd_h ${usd(limit)}/h`, value: limit, ink: "cap" }} />;
}

/** Whether both are the same thing: an endpoint that was deleted may have the name of one that is there. */
const same = (one: { name: string; deleted?: boolean }, other: { name: string; deleted?: boolean }) => one.name === other.name && !one.deleted === !other.deleted;
/** What the server calls something, as this page does. */
const named = (name: string, by: string) => (by === "state" ? PAST.find((part) => part.toLowerCase() === name) ?? name : name);
const none = () => Object.fromEntries(FOR.map((part) => [part, 0])) as Record<For, number>;

function summed(workers: Worker[], keyOf: (one: Worker) => string): Sum[] {
  const sums = new Map<string, Sum>();
  for (const one of workers) {
    const name = keyOf(one);
    const sum = sums.get(name) ?? { name, usdH: 0, workers: 0, parts: none() };
    sums.set(name, sum);
    sum.usdH += one.price_usd_h;
    sum.workers += 1;
    sum.parts[paidFor(one)] += one.price_usd_h;
  }
  return [...sums.values()].sort((a, b) => b.usdH - a.usdH || a.name.localeCompare(b.name));
}

function Table({ sums, by, told, all, spend, range }: { sums: Sum[]; by: string; told?: Told; all: Standing[]; spend: number; range: string }) {
  const known = (name: string) => all.some((one) => one.endpoint === name);
  const past = (sum: Sum) => told?.lines.find((line) => same(sum, { ...line, name: named(line.name, by) }))?.usd ?? 0;
  const isOutside = (sum: Sum) => by !== "key" && !sum.workers && !known(sum.name) && /^external(:|$)/i.test(sum.name);
  const ends = (sum: Sum) => [
    <td class="number" data-name={`In ${range}`}>{told ? usd(past(sum)) : "–"}</td>,
    <td class="number" data-name="Share">{told?.usd ? `${((100 * past(sum)) / told.usd).toFixed(1)} %` : spend ? "–" : <span class="zero">0 %</span>}</td>,
  ];
  const rows = by === "key" ? sums : [...sums].sort((a, b) => b.usdH - a.usdH || past(b) - past(a));
  return (
    <table class="table fold">
      <thead><tr><th scope="col">{BY.find(([key]) => key === by)?.[1]}</th>{by !== "key" && <><th scope="col" class="number">Now, $/h</th><th scope="col">What it is for now</th><th scope="col" class="number">Workers</th></>}<th scope="col" class="number">In {range}</th><th scope="col" class="number">Share</th></tr></thead>
      <tbody>{rows.map((sum) => isOutside(sum) ? (
        <tr key={sum.name}>
          <th scope="row"><Said text={sum.name} most={255} /></th>
          <td class="number" data-name="Now, $/h">–</td>
          <td class="wide"><small>servers of others, paid by the request</small></td>
          <td class="number" data-name="Workers">–</td>
          {ends(sum)}
        </tr>
      ) : (
        <tr key={`${sum.name}${sum.deleted ? " deleted" : ""}`}>
          <th scope="row">{!by && !sum.deleted && known(sum.name) ? <a class="row" href={endpointAt(sum.name)}><Said text={sum.name} most={255} /></a> : <Said text={sum.name} most={255} />}{sum.deleted && <> <span class="tag">deleted</span></>}</th>
          {by !== "key" && (
            <>
              <td class="number" data-name="Now, $/h">{sum.usdH ? usd(sum.usdH) : <span class="zero">$0.00</span>}</td>
              <td class="wide"><Bar parts={sum.usdH ? FOR.map((part) => [KIND[part], sum.parts[part]]) : [["none", 1]]} label={FOR.filter((part) => sum.parts[part]).map((part) => `${part} ${usd(sum.parts[part])} an hour`).join(", ") || "nothing"} /></td>
              <td class="number" data-name="Workers">{sum.workers || <span class="zero">0</span>}</td>
            </>
          )}
          {ends(sum)}
        </tr>
      ))}</tbody>
    </table>
  );
}

const WORDS: Record<string, string> = { max_usd_h: "By the hour", max_usd_day: "Today", max_usd_month: "This month" };

function Caps({ caps }: { caps: MoneyLeft[] }) {
  const whose = [...new Set(caps.map((one) => one.endpoint))].sort();
  return (
    <Card title="Caps">
      {!caps.length && <Empty title="No cap is set"><p>A cap of an endpoint is one of its parameters. One for all is a setting of the server: <code>money.max_usd_h</code>, <code>_day</code>, <code>_month</code>.</p></Empty>}
      {whose.map((name) => (
        <div class="body stack caps">
          <h3>{name ? <a class="link" href={endpointAt(name, "parameters")}><Said text={name} most={80} /></a> : "The installation"}</h3>
          {caps.filter((one) => one.endpoint === name).map((one) => {
            const per = one.cap === "max_usd_h" ? "/h" : "";
            const kind = { ok: "ink", warn: "loading" }[one.level] ?? "failed";
            return (
              <div class="wide">
                <p class="both"><span>{WORDS[one.cap] ?? one.cap}</span><span><b>{usd(one.used)}{per}</b> of {usd(one.limit)}{per}</span></p>
                <Bar parts={[[kind, Math.min(one.used, one.limit)], ["none", Math.max(0, one.limit - one.used)]]} label={`${usd(one.used)} of ${usd(one.limit)}`} />
                <p class="help">{usd(Math.max(0, one.limit - one.used))}{per} left{one.ends_at > 0 && <>, until <Time at={one.ends_at} seconds={false} /></>}{one.level === "full" && ": nothing more is started"}{one.level === "drain" && ": what is there drains"}</p>
              </div>
            );
          })}
        </div>
      ))}
    </Card>
  );
}
