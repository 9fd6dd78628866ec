import { useState } from "preact/hooks";
import type { MoneyLeft, Session, Standing, Status } from "../api";
import { mayOperate, type History } from "../api";
import { Head } from "../app";
import { Spark } from "../chart";
import { inPath, live, useAnswer, useLive } from "../live";
import { Bar, CapacityBar, CapacityLegend, Card, Empty, Glyph, Icon, Loading, LOOKS, Problem, Stalls, Tile, VerdictRow, conditionOf, count, looksInWords, span, usd, waitingInWords, work } from "../parts";
import { at, endpointAt } from "../route";
import { Said } from "../text";
import { Failed } from "../api";

const SPARKS = 40; // more endpoints than this have no picture in their row

export function Overview({ session }: { session: Session }) {
  const { status, endpoints, failed } = useLive();
  const all = useOrdered([...endpoints.values()]);
  return (
    <>
      <Head><h1>Overview</h1><span class="right"><a class="button" href={at("create")}><Icon name="create" />Create</a></span></Head>
      {!status && (failed ? <Card title="Endpoints"><Problem error={new Failed(0, failed)} again={() => void live.load()} /></Card> : <Loading lines={6} />)}
      {status && !all.length && <Nothing status={status} session={session} />}
      {status && all.length > 0 && (
        <>
          <NeedsYou all={all} troubles={status.troubles} />
          <Sums all={all} status={status} />
          <Table all={all} caps={status.caps} />
        </>
      )}
    </>
  );
}

/** Those in need first; within that by name. The order holds while the pointer or the focus is in the table. */
function useOrdered(all: Standing[]): Standing[] {
  const [kept, keep] = useState<number[]>([]);
  const rank = (one: Standing) => (one.verdict ? (one.verdict.mends ? 1 : 0) : 2);
  const sorted = [...all].sort((a, b) => rank(a) - rank(b) || a.endpoint.localeCompare(b.endpoint));
  const held = document.querySelector(".endpoints:hover, .endpoints:focus-within") !== null;
  if (!held) {
    const ids = sorted.map((one) => one.id);
    if (ids.join() !== kept.join()) queueMicrotask(() => keep(ids));
    return sorted;
  }
  const place = new Map(kept.map((id, i) => [id, i]));
  return [...all].sort((a, b) => (place.get(a.id) ?? 1e9) - (place.get(b.id) ?? 1e9));
}

function NeedsYou({ all, troubles }: { all: Standing[]; troubles: string[] }) {
  const stuck = all.filter((one) => one.verdict).sort((a, b) => Number(a.verdict!.mends) - Number(b.verdict!.mends));
  const red = stuck.filter((one) => !one.verdict!.mends).length;
  if (!stuck.length && !troubles.length)
    return <p class="calm"><Glyph look="hot" />{all.length === 1 ? "The endpoint has enough." : `All ${all.length} endpoints have enough.`}</p>;
  const parts = [
    red > 0 && (red === 1 ? "1 endpoint will not recover by itself" : `${red} endpoints will not recover by themselves`),
    stuck.length > red && `${stuck.length - red} on the way`,
    all.length > stuck.length && `${all.length - stuck.length} with enough`,
  ];
  return (
    <Card title="Needs you" sub={parts.filter(Boolean).join(", ")}>
      <ul class="verdicts">
        {stuck.map((one) => (
          <VerdictRow key={one.id} verdict={one.verdict!} standing={one}>
            <a class="button small" href={endpointAt(one.endpoint)}>{one.verdict!.mends ? "Watch" : "See why"}<span class="hidden">: <Said text={one.endpoint} most={80} /></span></a>
          </VerdictRow>
        ))}
        {troubles.map((text) => (
          <li class="verdict" key={text}>
            <Glyph look="failed" />
            <div><h3>The server is in trouble</h3><p><Said text={text} most={500} /></p></div>
          </li>
        ))}
      </ul>
    </Card>
  );
}

function Sums({ all, status }: { all: Standing[]; status: Status }) {
  const spend = all.reduce((sum, one) => sum + one.figures.usd_h, 0);
  const waiting = all.reduce((sum, one) => sum + one.figures.waiting, 0);
  const stuck = all.filter((one) => one.verdict && !one.verdict.mends).reduce((sum, one) => sum + one.figures.waiting, 0);
  const looks = Object.fromEntries(LOOKS.map((look) => [look, all.reduce((sum, one) => sum + (one.figures.looks[look] ?? 0), 0)]));
  const workers = Object.values(looks).reduce((a, b) => a + b, 0);
  const cap = (name: string) => status.caps.find((one) => !one.endpoint && one.cap === name);
  const [hour, day] = [cap("max_usd_h"), cap("max_usd_day") ?? cap("max_usd_month")];
  return (
    <section class="card tiles" aria-label="Now">
      <Tile name="Spend now" value={usd(spend)} unit="/h" bar={hour ? <CapBar cap={hour} used={spend} /> : <Bar parts={[["none", 1]]} />}>
        {hour ? `of ${usd(hour.limit)}/h, ${usd(Math.max(0, hour.limit - spend))}/h left` : "no cap for all endpoints"}
      </Tile>
      <Tile name={day ? (day.cap === "max_usd_day" ? "Spent today" : "Spent this month") : "Spent so far"} value={usd(day ? day.used : status.spent_usd)} bar={day ? <CapBar cap={day} used={day.used} /> : <Bar parts={[["none", 1]]} />}>
        {day ? `of ${usd(day.limit)}, ${usd(Math.max(0, day.limit - day.used))} left` : `by ${count(all.length, "endpoint")}${status.spent_usd - all.reduce((sum, one) => sum + one.spent_usd, 0) > 0.005 ? " and deleted ones" : ""}`}
      </Tile>
      <Tile name="Requests waiting" value={waiting} bar={<Bar parts={waiting ? [["failed", stuck], ["loading", waiting - stuck]] : [["none", 1]]} />} bad={stuck > 0}>
        {waiting ? [stuck && `${stuck} stuck`, waiting - stuck && `${waiting - stuck} for a worker that starts`].filter(Boolean).join(", ") : "every request has a worker"}
      </Tile>
      <Tile name="Workers" value={workers} bar={<Bar parts={workers ? LOOKS.map((look) => [look, looks[look] ?? 0]) : [["none", 1]]} />}>
        {looksInWords(looks)}
      </Tile>
    </section>
  );
}

export function CapBar({ cap, used }: { cap: MoneyLeft; used: number }) {
  const kind = { ok: "ink", warn: "loading" }[cap.level] ?? "failed";
  return <Bar parts={[[kind, Math.min(used, cap.limit)], ["none", Math.max(0, cap.limit - used)]]} label={`${usd(used)} of ${usd(cap.limit)}`} />;
}

function Table({ all, caps }: { all: Standing[]; caps: MoneyLeft[] }) {
  const [find, setFind] = useState("");
  const shown = all.filter((one) => one.endpoint.toLowerCase().includes(find.toLowerCase()));
  const field = all.length > 8 && (
    <input type="search" class="find" placeholder="Find an endpoint" aria-label="Find an endpoint" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
  );
  return (
    <Card title="Endpoints" sub={all.length > 1 ? `${all.length}, those in need first` : undefined} right={<>{field}<CapacityLegend /></>} class="endpoints">
      <table class="table fold">
        <thead>
          <tr>
            <th scope="col">Endpoint</th>
            <th scope="col">Load and capacity, work/s</th>
            <th scope="col" class="number">Waiting</th>
            <th scope="col" class="number">p95 wait</th>
            <th scope="col">Workers</th>
            <th scope="col" class="number">Spend, $/h</th>
            <th scope="col" class="number">Last hour</th>
          </tr>
        </thead>
        <tbody>{shown.map((one) => <Row key={one.id} one={one} cap={caps.find((c) => c.endpoint === one.endpoint && c.cap === "max_usd_h")} spark={all.length <= SPARKS} />)}</tbody>
      </table>
      {!shown.length && <Empty title={`No endpoint has “${find}” in its name`}><button class="button" type="button" onClick={() => setFind("")}>Clear</button></Empty>}
    </Card>
  );
}

function Row({ one, cap, spark }: { one: Standing; cap?: MoneyLeft; spark: boolean }) {
  const { figures } = one;
  const [word, look] = conditionOf(one);
  const red = one.verdict !== null && !one.verdict?.mends;
  const rest = [figures.coming > 0 && `${work(figures.coming)} coming`, figures.cold > 0 && `${work(figures.cold)} cold`].filter(Boolean);
  return (
    <tr>
      <th scope="row">
        <span class="named">
          <Glyph look={look} />
          <a class="row" href={endpointAt(one.endpoint)}><Said text={one.endpoint} most={255} /></a>
          <small class={`text-${look}`}>{word}</small>
        </span>
      </th>
      <td class="wide">
        <span class="figures"><b>{work(figures.load)}</b> of {work(figures.hot)} hot{rest.length > 0 && `, ${rest.join(", ")}`}</span>
        <CapacityBar figures={figures} />
      </td>
      <td class="number" data-name="Waiting">
        <span class={figures.waiting ? (red ? "bad strong" : "warn strong") : "zero"}>{figures.waiting}</span>
        {figures.waiting > 0 && <small>{waitingInWords(figures.waiting, figures.oldest_wait_s)}</small>}
      </td>
      <td class="number" data-name="p95 wait">{span(figures.p95_wait_s)}</td>
      <td class="last"><Stalls looks={figures.looks} />{Object.values(figures.looks).some(Boolean) && <small>{looksInWords(figures.looks)}</small>}</td>
      <td class="number" data-name="Spend per hour">
        {usd(figures.usd_h)}
        {cap && <small class={cap.level === "ok" ? "" : "bad"}>of {usd(cap.limit)}</small>}
      </td>
      <td class="number hide">{spark && <RowSpark one={one} />}</td>
    </tr>
  );
}

function RowSpark({ one }: { one: Standing }) {
  const { value } = useAnswer<History>(`/v1/endpoints/${inPath(one)}/history?last_s=3600&most=96`, { everyMs: 60_000 });
  return <Spark load={value?.load ?? []} hot={value?.hot ?? []} />;
}

function Nothing({ status, session }: { status: Status; session: Session }) {
  return (
    <Card title="Endpoints">
      <Empty title="No endpoint yet">
        <p>An endpoint is a model with a name, and workers that come and go with its load.{mayOperate(session) ? "" : " Making one needs a key with the scope operate."}</p>
        {mayOperate(session) && <a class="button primary" href={at("create")}>Create from a recipe</a>}
        <p>Or in a terminal: <code>posthouse up chat --recipe llama.cpp --model model.gguf</code>. {status.providers.length === 1 ? <>Workers come from the provider <code>{status.providers[0]}</code>.</> : `Workers come from ${status.providers.length} providers.`}</p>
      </Empty>
    </Card>
  );
}
