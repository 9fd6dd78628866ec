/** Where the money goes now and went in the last day, and what the caps leave. */
import { useEffect, useState } from "preact/hooks";
import { get, type History, type MoneyLeft, type Standing, type Worker } from "../api";
import { Head } from "../app";
import { Chart } from "../chart";
import { inPath, live, useAnswer, useLive } from "../live";
import { Bar, Card, Choice, Empty, Loading, Problem, Tile, Time, count, gpu, span, usd } from "../parts";
import { ask, asked, endpointAt, home } from "../route";
import { Said } from "../text";

const BY = [["", "Endpoint"], ["gpu", "GPU"], ["provider", "Provider"], ["state", "State"]] as const;
const RANGES = [["3600", "1 h"], ["", "24 h"], ["604800", "7 d"], ["2592000", "30 d"]] as const;
const SLOTS = 96;
const MOST = 60; // endpoints whose history is asked for

/** What a worker is paid for now. Resting is storage: a disk that is kept. */
const FOR = ["Working", "Idle", "Starting", "Resting", "Failed"] as const;
type For = (typeof FOR)[number];
const KIND: Record<For, string> = { Working: "hot", Idle: "hot-2", Starting: "loading", Resting: "cold-2", Failed: "failed" };
function paidFor(worker: Worker): For {
  switch (worker.look) {
    case "cold": return "Resting";
    case "failed": return "Failed";
    case "loading": return "Starting";
    default: return worker.outstanding > 0 ? "Working" : "Idle";
  }
}

type Sum = { name: string; usdH: number; spent: number; workers: number; parts: Record<For, number> };

export function Costs() {
  const { endpoints, status } = useLive();
  const by = asked("by");
  const last = Number(asked("range") || 86_400);
  const { value, error, again } = useAnswer<Worker[]>("/v1/workers?gone=true", { everyMs: 5000 });
  const all = [...endpoints.values()];
  const past = usePast(all, last);
  const there = value?.filter((one) => !one.gone_at);
  const keyOf = (one: Worker) => ({ gpu: gpu(one), provider: one.provider, state: paidFor(one) })[by] ?? one.endpoint;
  const sums = summed((by === "state" ? there : value) ?? [], keyOf);
  if (!by) for (const one of all) if (!sums.some((sum) => sum.name === one.endpoint)) sums.push({ name: one.endpoint, usdH: 0, spent: 0, workers: 0, parts: none() });
  const whole = summed(there ?? [], () => "")[0];
  const spend = whole?.usdH ?? 0;
  const idle = whole ? whole.parts.Idle : 0;
  const storage = whole ? whole.parts.Resting : 0;
  const caps = status?.caps ?? [];
  const hour = caps.find((one) => !one.endpoint && one.cap === "max_usd_h");
  return (
    <>
      <Head><h1>Costs</h1><span class="right"><button class="button" type="button" disabled={!sums.length} onClick={() => download(sums, by || "endpoint")}>CSV</button></span></Head>
      {error && <Card title="Costs"><Problem error={error} again={again} /></Card>}
      <section class="card tiles" aria-label="Now">
        <Tile name="Spend now" value={usd(spend)} unit="/h" bar={<Bar parts={whole ? FOR.map((part) => [KIND[part], whole.parts[part]]) : [["none", 1]]} />}>{there ? count(there.length, "worker") : ""}</Tile>
        <Tile name="Idle now" value={usd(idle)} unit="/h">{spend ? `${Math.round((100 * idle) / spend)} % of it: ready, without a request` : "nothing runs"}</Tile>
        <Tile name="Storage now" value={usd(storage)} unit="/h">disks of workers that rest</Tile>
        <Tile name={`In the last ${RANGES.find(([key]) => Number(key || 86_400) === last)?.[1] ?? "24 h"}`} value={past ? usd(past.usd) : "–"}>{past && past.seconds < last * 0.9 ? `of about ${span(past.seconds)} that are known` : "by all endpoints"}</Tile>
      </section>
      <div class="columns">
        <div>
          <section class="card" aria-label="Spend over time">
            <div class="filters end pad"><Choice label="Range" value={asked("range") as ""} options={RANGES as readonly (readonly ["", string])[]} choose={(value) => ask("range", value)} /></div>
            {past && past.at.length > 1 ? (
              <Chart title="Spend" unit="$/h" at={past.at} last={last} now={live.now()} height={200} show={(v) => (v == null ? "–" : usd(v))} tick={(v) => `$${Number(v.toPrecision(3))}`}
                lines={[{ name: "All endpoints", values: past.usdH, ink: "load", fill: "grid", step: true }]} limit={hour ? { name: `max_usd_h ${usd(hour.limit)}/h`, value: hour.limit, ink: "cap" } : null} />
            ) : <Loading lines={3} />}
          </section>
          <Card title={`By ${by || "endpoint"}`} right={<Choice label="By" value={by as ""} options={BY as readonly (readonly ["", string])[]} choose={(value) => ask("by", value)} />}>
            {!value && !error && <Loading />}
            {value && !sums.length && <Empty title="Nothing costs anything"><p>No worker runs, and none did within a day.</p><a class="button" href={home}>To the endpoints</a></Empty>}
            {sums.length > 0 && <Table sums={sums} by={by} past={past} all={all} spend={spend} />}
            <p class="pad legend">{FOR.map((part) => <span><i class={`key fill-${KIND[part]}`} />{part}</span>)}</p>
          </Card>
        </div>
        <Caps caps={caps} />
      </div>
    </>
  );
}

const none = () => Object.fromEntries(FOR.map((part) => [part, 0])) as Record<For, number>;

function summed(workers: Worker[], keyOf: (one: Worker) => string): Sum[] {
  const sums = new Map<string, Sum>();
  for (const one of workers) {
    const name = keyOf(one);
    const sum = sums.get(name) ?? { name, usdH: 0, spent: 0, workers: 0, parts: none() };
    sums.set(name, sum);
    sum.spent += one.spent_usd;
    if (one.gone_at) continue;
    sum.usdH += one.price_usd_h;
    sum.workers += 1;
    sum.parts[paidFor(one)] += one.price_usd_h;
  }
  return [...sums.values()].sort((a, b) => b.usdH - a.usdH || b.spent - a.spent || a.name.localeCompare(b.name));
}

function Table({ sums, by, past, all, spend }: { sums: Sum[]; by: string; past?: Past; all: Standing[]; spend: number }) {
  const known = (name: string) => all.some((one) => one.endpoint === name);
  return (
    <table class="table fold">
      <thead><tr><th scope="col">{BY.find(([key]) => key === by)?.[1]}</th><th scope="col" class="number">Now, $/h</th><th scope="col" class="number">Share</th><th scope="col">What it is for</th><th scope="col" class="number">Workers</th>{!by && <th scope="col" class="number">In the range</th>}<th scope="col" class="number">By these workers</th></tr></thead>
      <tbody>{sums.map((sum) => (
        <tr key={sum.name}>
          <th scope="row">{!by && known(sum.name) ? <a class="row" href={endpointAt(sum.name)}><Said text={sum.name} most={255} /></a> : <Said text={sum.name || "deleted"} most={255} />}</th>
          <td class="number" data-name="Now, $/h">{sum.usdH ? usd(sum.usdH) : <span class="zero">$0.00</span>}</td>
          <td class="number" data-name="Share">{spend ? `${((100 * sum.usdH) / spend).toFixed(1)} %` : "–"}</td>
          <td class="wide"><Bar parts={sum.usdH ? FOR.map((part) => [KIND[part], sum.parts[part]]) : [["none", 1]]} label={FOR.filter((part) => sum.parts[part]).map((part) => `${part} ${usd(sum.parts[part])} an hour`).join(", ") || "nothing"} /></td>
          <td class="number" data-name="Workers">{sum.workers || <span class="zero">0</span>}</td>
          {!by && <td class="number" data-name="In the range">{past?.of[sum.name] === undefined ? "–" : usd(past.of[sum.name]!)}</td>}
          <td class="number" data-name="By these workers">{usd(sum.spent)}</td>
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

type Past = { at: number[]; usdH: (number | null)[]; usd: number; seconds: number; of: Record<string, number> };

/** What all endpoints cost over time, in even slots, and each of them in all. */
function usePast(all: Standing[], last: number): Past | undefined {
  const [past, set] = useState<Past>();
  const ids = all.slice(0, MOST).map((one) => one.id).join();
  useEffect(() => {
    let stopped = false;
    const read = async () => {
      const found = await Promise.all(all.slice(0, MOST).map(async (one) => [one.endpoint, await get<History>(`/v1/endpoints/${inPath(one)}/history?last_s=${last}&most=${SLOTS * 2}`).catch(() => null)] as const));
      if (!stopped) set(joined(found, last));
    };
    if (ids) void read();
    const timer = setInterval(read, 60_000);
    return () => { stopped = true; clearInterval(timer); };
  }, [ids, last]);
  return past;
}

function joined(found: (readonly [string, History | null])[], last: number): Past {
  const now = live.now();
  const step = last / SLOTS;
  const slots = Array.from({ length: SLOTS }, () => ({ usdH: 0, any: false }));
  const past: Past = { at: [], usdH: [], usd: 0, seconds: 0, of: {} };
  for (const [name, history] of found) {
    const sums = Array.from({ length: SLOTS }, () => [0, 0]);
    history?.at.forEach((at, i) => {
      const slot = sums[Math.floor((at - (now - last)) / step)];
      if (slot) { slot[0]! += history.usd_h[i]!; slot[1]! += 1; }
    });
    past.of[name] = 0;
    sums.forEach(([usdH, n], i) => {
      if (!n) return;
      slots[i]!.usdH += usdH! / n;
      slots[i]!.any = true;
      past.of[name]! += ((usdH! / n) * step) / 3600;
    });
  }
  slots.forEach(({ usdH, any }, i) => {
    past.at.push(now - last + (i + 0.5) * step);
    past.usdH.push(any ? usdH : null);
    if (any) { past.usd += (usdH * step) / 3600; past.seconds += step; }
  });
  return past;
}

function download(sums: Sum[], by: string): void {
  const cell = (value: string | number) => { const text = String(value); return /^[=+\-@]/.test(text) && typeof value === "string" ? `"'${text.replace(/"/g, '""')}"` : `"${text.replace(/"/g, '""')}"`; };
  const head = [by, "usd_per_hour_now", ...FOR.map((part) => `${part.toLowerCase()}_usd_per_hour`), "workers", "spent_usd_by_workers_of_the_last_day"];
  const rows = sums.map((sum) => [sum.name, sum.usdH.toFixed(6), ...FOR.map((part) => sum.parts[part].toFixed(6)), sum.workers, sum.spent.toFixed(6)]);
  const address = URL.createObjectURL(new Blob([[head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: address, download: `posthouse-costs-by-${by}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
