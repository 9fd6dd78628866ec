import { useState } from "preact/hooks";
import type { Worker } from "../api";
import { Head } from "../app";
import { useAnswer, useLive } from "../live";
import { gpu, Card, Choice, Empty, Loading, Pill, Problem, count, lookWord, span, usd, work, type Look } from "../parts";
import { ask, asked, endpointAt, home, workerAt } from "../route";
import { Said } from "../text";

const FILTERS = [["", "All"], ["hot", "Hot"], ["loading", "Loading"], ["cold", "Cold"], ["draining", "Draining"], ["failed", "Failed"], ["gone", "Gone"]] as const;

export function Workers() {
  useLive();
  const look = asked("look");
  const [find, setFind] = useState("");
  const { value, error, again } = useAnswer<Worker[]>(`/v1/workers?gone=${look === "gone"}`, { everyMs: 3000 });
  const all = value?.filter((one) => (look ? one.look === look || (look === "gone" && one.gone_at > 0) : !one.gone_at));
  const text = find.toLowerCase();
  const shown = all?.filter((one) => `${one.id} ${one.endpoint} ${one.provider} ${one.gpu_name} ${one.machine}`.toLowerCase().includes(text));
  return (
    <>
      <Head><h1>Workers</h1></Head>
      <div class="filters">
        <Choice label="State" value={look} options={FILTERS} choose={(value) => ask("look", value)} />
        <input type="search" class="find" placeholder="Find a worker" aria-label="Find a worker" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
      </div>
      <Card title="Workers" sub={shown && count(shown.length, "worker")}>
        {error && <Problem error={error} again={again} />}
        {!value && !error && <Loading lines={5} />}
        {shown && shown.length > 0 && <WorkerTable workers={shown} endpoints />}
        {shown?.length === 0 && (look || find ? (
          <Empty title={look ? `No worker is ${look}` : `No worker has “${find}”`}>
            <button class="button" type="button" onClick={() => { setFind(""); ask("look", ""); }}>Clear filter</button>
          </Empty>
        ) : (
          <Empty title="No worker runs"><p>Workers come when an endpoint has load, or keeps some by its parameters.</p><a class="button" href={home}>To the endpoints</a></Empty>
        ))}
      </Card>
    </>
  );
}

export function WorkerTable({ workers, endpoints = false }: { workers: Worker[]; endpoints?: boolean }) {
  return (
    <table class="table fold workers">
      <thead>
        <tr>
          <th scope="col">Worker</th>
          <th scope="col">State</th>
          {endpoints && <th scope="col">Endpoint</th>}
          <th scope="col">Machine</th>
          <th scope="col" class="number">Capacity, work/s</th>
          <th scope="col" class="number">In flight, work</th>
          <th scope="col" class="number">Cost, $/h</th>
          <th scope="col" class="number">{workers.some((one) => one.gone_at) ? "Lived" : "Age"}</th>
        </tr>
      </thead>
      <tbody>
        {workers.map((one) => (
          <tr key={one.id}>
            <th scope="row"><a class="row" href={workerAt(one.id)}>{one.id}</a></th>
            <td data-name="State"><Pill look={one.look as Look}>{lookWord(one.look)}</Pill></td>
            {endpoints && <td data-name="Endpoint"><a class="link" href={endpointAt(one.endpoint)}><Said text={one.endpoint} most={255} /></a></td>}
            <td data-name="Machine"><Said text={gpu(one)} most={60} /><small>{one.provider}</small></td>
            <td class="number" data-name="Capacity, work/s">{one.perf ? work(one.perf) : "–"}</td>
            <td class="number" data-name="In flight, work">{one.outstanding ? work(one.outstanding) : <span class="zero">0</span>}</td>
            <td class="number" data-name="Cost, $/h">{usd(one.price_usd_h)}</td>
            <td class="number" data-name="Age">{span(one.age_s)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
