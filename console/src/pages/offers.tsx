/** Providers, and what could be rented there: its price, and what a unit of work costs on it. */
import { useState } from "preact/hooks";
import { call, mayOperate, type Failed, type Provider, type ProviderCheck, type RankedOffer, type Session } from "../api";
import { Head } from "../app";
import { SelectField, TextField, wrongOf } from "../fields";
import { inPath, useAnswer, useLive } from "../live";
import { Card, Empty, Glyph, Loading, Pill, Problem, count, gpu, span, usd, work } from "../parts";
import { ask, asked } from "../route";
import { Said } from "../text";

export function Offers({ session }: { session: Session }) {
  return (
    <>
      <Head><h1>Providers and offers</h1></Head>
      <Providers session={session} />
      <Market />
    </>
  );
}

function Providers({ session }: { session: Session }) {
  const { value, error, again } = useAnswer<Provider[]>("/v1/providers", { everyMs: 10_000 });
  const [checks, setChecks] = useState<Record<string, ProviderCheck[] | "asked" | Failed>>({});
  const check = async (name: string) => {
    setChecks((before) => ({ ...before, [name]: "asked" }));
    const found = await call<ProviderCheck[]>("POST", `/v1/providers/${encodeURIComponent(name)}/check`).catch((problem: Failed) => problem);
    setChecks((before) => ({ ...before, [name]: found }));
  };
  const may = mayOperate(session);
  return (
    <Card title="Providers" sub="where workers come from">
      {error && <Problem error={error} again={again} />}
      {!value && !error && <Loading />}
      {value && (
        <table class="table fold">
          <thead><tr><th scope="col">Provider</th><th scope="col">Answers</th><th scope="col">Can</th><th scope="col" class="number">Offers</th><th scope="col" class="number">As of</th><th scope="col"><span class="hidden">Acts</span></th></tr></thead>
          <tbody>{value.map((one) => (
            <tr key={one.name}>
              <th scope="row"><Said text={one.name} most={80} /><small>{one.type}{one.default && ", the default"}</small></th>
              <td data-name="Answers"><Pill look={one.answers ? "hot" : "failed"}>{one.answers ? "Yes" : "No"}</Pill></td>
              <td data-name="Can">{one.capabilities.join(", ") || "–"}</td>
              <td class="number" data-name="Offers">{one.offers ?? "–"}</td>
              <td class="number" data-name="As of">{one.catalog_age_s === null ? "–" : `${span(one.catalog_age_s)} ago`}</td>
              <td class="last ends"><button class="button small" type="button" disabled={!may || checks[one.name] === "asked"} onClick={() => check(one.name)}>{checks[one.name] === "asked" ? "Asking" : "Check"}<span class="hidden"> {one.name}</span></button></td>
            </tr>
          ))}</tbody>
        </table>
      )}
      {Object.entries(checks).map(([name, found]) => found !== "asked" && (
        <div class="body stack" role="status">
          <h3>What {name} answers</h3>
          {Array.isArray(found) ? <ul class="checks">{found.map((one) => <li><Glyph look={one.ok ? "hot" : "failed"} /><b>{one.what}</b><Said text={one.text} most={500} /></li>)}</ul> : <Problem error={found} />}
        </div>
      ))}
    </Card>
  );
}

function Market() {
  const { endpoints } = useLive();
  const name = asked("endpoint");
  const one = [...endpoints.values()].find((each) => each.endpoint === name);
  const [search, setSearch] = useState(asked("search"));
  const words = asked("search");
  const path = one ? `/v1/offers?endpoint=${inPath(one)}&limit=200` : `/v1/offers?limit=200&search=${encodeURIComponent(words)}`;
  const { value, error, again } = useAnswer<RankedOffer[]>(name && !one ? "" : path, { everyMs: 20_000 });
  const perWork = (offer: RankedOffer) => (offer.perf ? (1e6 * offer.ready_usd_h) / 3600 / offer.perf : null);
  const names = [...endpoints.values()].map((each) => each.endpoint).sort();
  return (
    <Card title="Offers" sub={value && `${count(value.length, "offer")}, ${one ? "the cheapest per unit of work first" : "the cheapest first"}`}>
      <form class="body grid3" onSubmit={(e) => { e.preventDefault(); ask("search", search.trim()); }}>
        <SelectField label="For" value={name} set={(value) => ask("endpoint", value)} options={[["", "no endpoint: all that is offered"], ...names.map((each) => [each, each.slice(0, 80)] as const)]} help="With an endpoint: what it may rent, and what work costs there." />
        {!name && <TextField label="Search" value={search} set={setSearch} placeholder="gpu_name=RTX_4090 num_gpus=1" help="Enter searches." wrong={wrongOf(error, "search")} />}
      </form>
      {error && <Problem error={error} again={again} />}
      {!value && !error && <Loading lines={5} />}
      {value?.length === 0 && <Empty title="Nothing is offered"><p>{one ? "No machine fits what its workergroups ask for." : words ? "No machine fits this search." : "No provider has said what it offers."}</p></Empty>}
      {value && value.length > 0 && (
        <table class="table fold">
          <thead><tr><th scope="col">Machine</th><th scope="col">Where</th><th scope="col" class="number">Hot, $/h</th><th scope="col" class="number">Cold, $/h</th>{one && <><th scope="col" class="number">Speed, work/s</th><th scope="col" class="number">$ per M work</th></>}<th scope="col" class="number">Up</th><th scope="col" class="number">Room for</th>{one && <th scope="col">Why</th>}</tr></thead>
          <tbody>{value.map((offer) => (
            <tr key={`${offer.provider}/${offer.id}/${offer.workergroup_id}`} class={offer.obstacle ? "past" : undefined}>
              <th scope="row"><Said text={gpu(offer)} most={60} />{offer.gpu_ram_mb > 0 && <small>{Math.round(offer.gpu_ram_mb / 1024)} GB each{offer.interruptible && ", may be taken away"}</small>}</th>
              <td data-name="Where"><Said text={offer.provider} most={40} /><small><Said text={[offer.machine, offer.zone].filter(Boolean).join(", ") || "–"} most={80} /></small></td>
              <td class="number" data-name="Hot, $/h">{usd(offer.ready_usd_h)}</td>
              <td class="number" data-name="Cold, $/h">{offer.stopped_usd_h === null ? <span class="zero">cannot rest</span> : usd(offer.stopped_usd_h)}</td>
              {one && <><td class="number" data-name="Speed, work/s">{offer.perf ? work(offer.perf) : <span class="zero">not measured</span>}</td><td class="number" data-name="$ per M work">{perWork(offer) === null ? "–" : usd(perWork(offer)!)}</td></>}
              <td class="number" data-name="Up">{(100 * offer.reliability).toFixed(1)} %</td>
              <td class="number" data-name="Room for">{offer.available}</td>
              {one && <td class="wide"><small class="wraps">{offer.obstacle ? <span class="bad"><Said text={offer.obstacle} most={200} /></span> : <Said text={offer.why} most={200} />}</small></td>}
            </tr>
          ))}</tbody>
        </table>
      )}
    </Card>
  );
}
