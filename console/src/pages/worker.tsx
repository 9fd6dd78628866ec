import { useState } from "preact/hooks";
import { call, mayOperate, type Happened, type Session, type Worker, type WorkerPage as Page } from "../api";
import { Head } from "../app";
import { Chart } from "../chart";
import { live, useAnswer, useLive } from "../live";
import { Log } from "../log";
import { gpu, Card, Confirm, Empty, Glyph, Loading, Pill, Problem, Time, count, lookWord, say, span, usd, work, type Look } from "../parts";
import { endpointAt, workersAt } from "../route";
import { Said } from "../text";

export function WorkerPage({ id, session }: { id: string; session: Session }) {
  useLive();
  const known = /^\d{1,19}$/.test(id);
  const { value, error, again } = useAnswer<Worker>(known ? `/v1/workers/${id}` : "", { everyMs: 2000 });
  const crumbs = (
    <>
      <a href={workersAt}>Workers</a>
      {value && <><span aria-hidden="true">/</span><a href={endpointAt(value.endpoint)}><Said text={value.endpoint} most={80} /></a></>}
    </>
  );
  if (!value || !value.page)
    return (
      <>
        <Head crumbs={crumbs}><h1>Worker <Said text={id} most={40} /></h1></Head>
        {!known || error?.status === 404 ? (
          <Card title="Not found"><Empty title="There is no such worker"><p>Those that are gone are shown for a day.</p><a class="button" href={workersAt}>To the workers</a></Empty></Card>
        ) : error ? <Card title="Worker"><Problem error={error} again={again} /></Card> : <Loading lines={6} />}
      </>
    );
  return <Known worker={value} page={value.page} session={session} crumbs={crumbs} again={again} />;
}

function Known({ worker, page, session, crumbs, again }: { worker: Worker; page: Page; session: Session; crumbs: preact.ComponentChildren; again: () => void }) {
  const now = live.now();
  const look = (worker.gone_at ? "gone" : page.look) as Look;
  return (
    <>
      <Head crumbs={crumbs}>
        <h1>Worker {worker.id}</h1>
        <Pill look={look}>{lookWord(look)}</Pill>
        <span class="sub">{worker.gone_at ? <>gone since <Time at={worker.gone_at} /></> : `${worker.state.replace(/_/g, " ")} for ${span(Math.max(0, now - page.since))}, wanted ${worker.goal}`}</span>
        {!worker.gone_at && <Acts worker={worker} page={page} session={session} again={again} />}
      </Head>
      <div class="columns">
        <div>
          {worker.message && <p class={`note${look === "failed" ? " bad" : ""}`}>It says: <Said text={worker.message} most={500} /></p>}
          <Life worker={worker} page={page} now={now} />
          <div class="pair">
            <Performance page={page} worker={worker} now={now} />
            <Requests page={page} />
          </div>
          <Log worker={worker} />
        </div>
        <div>
          <Facts worker={worker} page={page} />
          <Story story={page.story} />
        </div>
      </div>
    </>
  );
}

function Acts({ worker, page, session, again }: { worker: Worker; page: Page; session: Session; again: () => void }) {
  const [asks, setAsks] = useState<"drain" | "restart" | "destroy" | null>(null);
  const may = mayOperate(session);
  const why = may ? undefined : "Needs a key with the scope operate";
  const path = `/v1/workers/${worker.id}`;
  const after = (text: string, undo?: () => Promise<unknown>) => () => { say(text, { undo }); again(); };
  const open = page.open_requests;
  const first = open ? `It has ${count(open, "request")}, which ${open === 1 ? "is" : "are"} finished first.` : "It has no request now.";
  const serves = page.look === "hot";
  return (
    <span class="right acts">
      <button class="button" type="button" disabled={!may || !serves} title={why ?? (serves ? undefined : "It takes no requests now")} onClick={() => setAsks("drain")}>Drain…</button>
      <button class="button" type="button" disabled={!may || worker.goal === "gone"} title={why} onClick={() => setAsks("restart")}>Restart…</button>
      <button class="button danger" type="button" disabled={!may || worker.goal === "gone"} title={why} onClick={() => setAsks("destroy")}>Destroy…</button>
      {asks === "drain" && (
        <Confirm title={`Drain worker ${worker.id}?`} verb="Drain" close={() => setAsks(null)} act={() => call("POST", `${path}/drain`).then(after(`Worker ${worker.id} drains.`, open ? () => call("DELETE", `${path}/drain`).then(again) : undefined))}>
          <p>It gets no new requests. {first} {page.can_rest ? `Then it rests, at ${usd(page.stopped_usd_h)}/h.` : "Its provider cannot stop it and keep its disk, so then it is destroyed."}</p>
          <p>When the load calls for it, it is woken again. To keep workers as they are, suspend the endpoint.</p>
        </Confirm>
      )}
      {asks === "restart" && (
        <Confirm title={`Restart worker ${worker.id}?`} verb="Restart" close={() => setAsks(null)} act={() => call("POST", `${path}/restart`).then(after(`Worker ${worker.id} restarts in its turn.`))}>
          <p>{page.can_restart ? "It restarts where it is, with what its template says now." : "Its provider cannot do that in place, so it is replaced."} That waits until the others can do its work, if need be with one more worker. {first}</p>
          {worker.load_s > 0 && <p>The last time it took {span(worker.load_s)} to be ready.</p>}
        </Confirm>
      )}
      {asks === "destroy" && (
        <Confirm title={`Destroy worker ${worker.id}?`} verb="Destroy" danger type={String(worker.id)} close={() => setAsks(null)} act={() => call("DELETE", path).then(after(`Worker ${worker.id} is on its way out.`))}>
          <p>It gets no new requests. {first} Then its machine and its disk are given back, which cannot be undone.</p>
          <p>If the load needs it, the endpoint rents another one.</p>
        </Confirm>
      )}
    </span>
  );
}

const LOOK_OF: Record<string, Look> = { idle: "hot", stopped: "cold", stopping: "cold", error: "failed", unavail: "failed", destroying: "gone", destroyed: "gone" };
const lookOfState = (state: string): Look => LOOK_OF[state] ?? "loading";

/** Its states one after another. Spans are drawn by their square root, so that short ones are seen beside long ones. */
function Life({ worker, page, now }: { worker: Worker; page: Page; now: number }) {
  const changes = page.story.filter((one) => one.state).sort((a, b) => a.at - b.at);
  const end = worker.gone_at || now;
  const begun = changes.length ? changes[0]!.at : page.since;
  const spans: { state: string; s: number }[] = [];
  if (begun > page.created_at + 0.5) spans.push({ state: changes.length ? "before" : worker.state, s: begun - page.created_at });
  changes.forEach((one, i) => spans.push({ state: one.state, s: Math.max(0, (changes[i + 1]?.at ?? end) - one.at) }));
  const shown = spans.filter((one) => one.state !== "destroyed").slice(-12);
  const weight = (s: number) => Math.sqrt(s) + 0.4;
  const all = shown.reduce((sum, one) => sum + weight(one.s), 0) || 1;
  let x = 0;
  const ready = worker.load_s > 0 && `ready after ${span(worker.load_s)}${page.usual_start_s ? `; usual is ${span(page.usual_start_s)}` : ""}`;
  return (
    <Card title="Life" sub={ready || undefined} right={<span class="sub">widths by the square root of time</span>}>
      <div class="body">
        <svg class="life" role="img" aria-label={shown.map((one) => `${one.state.replace(/_/g, " ")} ${span(one.s)}`).join(", ")}>
          {shown.map((one) => {
            const [at, width] = [x, (100 * weight(one.s)) / all];
            x += width;
            return <rect class={`is-${one.state === "before" ? "gone" : lookOfState(one.state)} state-${one.state}`} x={`${at}%`} width={`${Math.max(0.3, width - 0.35)}%`} height="26" rx="3" />;
          })}
        </svg>
        <span class="legend">
          {shown.slice(-6).map((one) => (
            <span><i class={`key fill-${one.state === "before" ? "gone" : lookOfState(one.state)} state-${one.state}`} />{lookWord(one.state.replace(/_/g, " "))} <b>{span(one.s)}</b></span>
          ))}
        </span>
      </div>
    </Card>
  );
}

function Performance({ page, worker, now }: { page: Page; worker: Worker; now: number }) {
  const { at, counted, done } = page.performance;
  return (
    <section class="card" aria-label="Performance">
      {at.length > 1 ? (
        <Chart title="Performance" unit="work/s" at={at} last={1800} now={now} height={190} show={work}
          limit={page.usual_perf ? { name: `such workers ${work(page.usual_perf)}`, value: page.usual_perf, ink: "cold" } : null}
          lines={[{ name: "Learned", values: counted, ink: "hot", dash: true, step: true }, { name: "Measured", values: done, ink: "load", fill: "grid", width: 1.5 }]} />
      ) : (
        <Empty title="Not measured yet"><p>{worker.gone_at ? "It is gone, and its figures with it." : "The first points come when it is ready."}</p></Empty>
      )}
    </section>
  );
}

function Requests({ page }: { page: Page }) {
  const left = page.requests.reduce((sum, one) => sum + one.work, 0);
  const shown = page.requests.slice(0, 6);
  return (
    <Card title="Requests on it" sub={page.open_requests ? `${page.open_requests}, ${work(left)} work` : undefined}>
      {shown.length ? (
        <table class="table slim">
          <thead><tr><th scope="col">Request</th><th scope="col" class="number">Work</th><th scope="col" class="number">For</th><th scope="col">Seen</th></tr></thead>
          <tbody>
            {shown.map((one) => (
              <tr key={one.id}><th scope="row"><code>{one.id}</code></th><td class="number">{work(one.work)}</td><td class="number">{span(one.for_s)}</td><td>{one.seen ? "works on it" : "not yet"}</td></tr>
            ))}
          </tbody>
        </table>
      ) : <Empty title="No request now"><p>Those that it is given are shown here while they last.</p></Empty>}
    </Card>
  );
}

function Facts({ worker, page }: { worker: Worker; page: Page }) {
  const facts: [string, preact.ComponentChildren][] = [
    ["Endpoint", <a class="link" href={endpointAt(worker.endpoint)}><Said text={worker.endpoint} most={255} /></a>],
    ["GPU", <Said text={gpu(worker)} most={80} />],
    ["Provider", <Said text={worker.provider} most={80} />],
    ["Machine", <code><Said text={worker.machine || "–"} most={120} /></code>],
    ["Address", <code><Said text={worker.url || page.addresses[0] || "–"} most={200} /></code>],
    ["Price", `${usd(page.ready_usd_h)}/h hot${page.can_rest ? `, ${usd(page.stopped_usd_h)}/h cold` : ""}`],
    ["Spent", usd(worker.spent_usd)],
    ["Age", span(worker.age_s)],
    ["Agent", worker.version ? <Said text={worker.version} most={80} /> : "not heard yet"],
    ["Template", worker.build ? <code><Said text={worker.build} most={20} /></code> : "–"],
    ["Label", <code><Said text={page.label} most={120} /></code>],
  ];
  return (
    <Card title="What it is">
      <dl class="facts">{facts.map(([name, value]) => <div><dt>{name}</dt><dd>{value}</dd></div>)}</dl>
    </Card>
  );
}

function Story({ story }: { story: Happened[] }) {
  const [all, setAll] = useState(false);
  const told = story.filter((one) => one.title || one.level === "info0" || one.level === "info1");
  const shown = all ? told : told.slice(0, 12);
  return (
    <Card title="Timeline" sub="the latest first">
      {!told.length && <Empty title="Nothing is kept"><p>What happened before the server's start is not kept.</p></Empty>}
      <ol class="timeline">
        {shown.map((one, i) => (
          <li key={`${one.at}-${i}`}>
            <span class="dot">{one.state ? <Glyph look={lookOfState(one.state)} /> : <i />}</span>
            <div>
              <span class="first"><b>{one.title || "Note"}</b><Time at={one.at} /></span>
              {one.text && <p><Said text={one.text[0]!.toUpperCase() + one.text.slice(1)} most={600} /></p>}
            </div>
          </li>
        ))}
      </ol>
      {told.length > shown.length && <p class="pad"><button class="button small" type="button" onClick={() => setAll(true)}>Show all {told.length}</button></p>}
    </Card>
  );
}
