/** From a recipe or a template to the first answer, on one page. */
import { useEffect, useState } from "preact/hooks";
import { call, mayOperate, type Deployed, type Estimate, type Failed, type Provider, type Recipe, type Session, type Template } from "../api";
import { Head } from "../app";
import { SelectField, TextField, useTold, wrongOf } from "../fields";
import { inPath, live, useAnswer, useLive } from "../live";
import { CapacityBar, Card, Choice, Icon, Loading, Pill, Problem, conditionOf, count, say, span, usd } from "../parts";
import { ask, asked, endpointAt, home } from "../route";
import { Said } from "../text";
import { Playground } from "./playground";

type Form = { name: string; provider: string; gpu: string; gpu_ram_gb: string; max_workers: string; cold_workers: string; min_load: string; max_usd_h: string; target_queue_time: string };
const BLANK: Form = { name: "", provider: "", gpu: "", gpu_ram_gb: "", max_workers: "1", cold_workers: "0", min_load: "0", max_usd_h: "", target_queue_time: "10" };
const NUMBERS = ["max_workers", "cold_workers", "min_load", "max_usd_h", "target_queue_time"] as const;

export function Create({ session }: { session: Session }) {
  const { endpoints, status } = useLive();
  const { value: recipes, error, again } = useAnswer<Recipe[]>("/v1/recipes");
  const { value: found } = useAnswer<{ templates: Template[] }>("/api/v0/template");
  const { value: providers } = useAnswer<Provider[]>("/v1/providers");
  const [form, setForm] = useState(BLANK);
  const [parameters, setParameters] = useState<Record<string, string>>({});
  const [refused, setRefused] = useState<Failed | null>(null);
  const [busy, setBusy] = useState(false);
  const recipe = recipes?.find((one) => one.name === asked("recipe"));
  const template = found?.templates.find((one) => String(one.id) === asked("template"));
  const made = [...endpoints.values()].find((one) => String(one.id) === asked("made"));
  useEffect(() => setParameters({}), [recipe?.name, template?.id]);
  const set = (key: keyof Form) => (value: string) => { setRefused(null); setForm((before) => ({ ...before, [key]: value })); };

  const missing = recipe?.parameters.filter((one) => one.default === null && !parameters[one.name]) ?? [];
  const named = form.name.trim();
  const taken = !made && [...endpoints.values()].some((one) => one.endpoint === named);
  const body = {
    name: named || "new", recipe: recipe?.name ?? "", template_id: template?.id, provider: form.provider, gpu: form.gpu.trim(), gpu_ram_gb: Number(form.gpu_ram_gb) || 0,
    parameters: Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== "")),
    scaling: Object.fromEntries(NUMBERS.filter((key) => form[key].trim() !== "").map((key) => [key, Number.isNaN(Number(form[key])) ? form[key] : Number(form[key])])),
  };
  const chosen = recipe ?? template;
  const ready = chosen && !missing.length && !made;
  const told = useTold<Estimate>(ready ? "/v1/deployments/estimate" : "", body);
  const may = mayOperate(session);
  const why = !may ? "Making an endpoint needs a key with the scope operate." : !chosen ? "Choose what it serves." : missing.length ? `Say ${missing.map((one) => one.name).join(", ")}.` : !named ? "Give it a name." : taken ? "Choose another name: this one is taken." : told.error ? "Something above is wrong." : "";
  const problem = refused ?? told.error;

  const create = async () => {
    if (why || busy) return;
    setBusy(true);
    try {
      const deployed = await call<Deployed>("POST", "/v1/deployments", { ...body, name: named });
      await live.load();
      say(`${named} is made.`);
      ask("made", String(deployed.endpoint_id));
    } catch (failed) {
      setRefused(failed as Failed);
    }
    setBusy(false);
  };

  const crumbs = <a href={home}>Overview</a>;
  if (error) return <><Head crumbs={crumbs}><h1>Create an endpoint</h1></Head><Card title="Recipes"><Problem error={error} again={again} /></Card></>;
  return (
    <>
      <Head crumbs={crumbs}><h1>Create an endpoint</h1><span class="sub">from a recipe to the first answer, on this page</span></Head>
      <div class="columns">
        <div>
          <section class="card step" aria-labelledby="serves">
            <h2 id="serves"><span class="no">1</span>What it serves</h2>
            {!recipes ? <Loading /> : <What recipes={recipes} templates={found?.templates ?? []} recipe={recipe} template={template} fixed={!!made} />}
            {recipe && !made && (
              <div class="grid2">
                {recipe.parameters.map((one) => {
                  const common = { key: one.name, label: label(one.name), wire: one.name, help: sentence(one.help), value: parameters[one.name] ?? "", set: (value: string) => { setRefused(null); setParameters({ ...parameters, [one.name]: value }); }, wrong: wrongOf(problem, one.name) };
                  return one.choices.length ? (
                    <SelectField {...common} value={parameters[one.name] ?? one.default ?? ""} options={[...(one.default === "" ? [["", "as the engine has it"] as const] : []), ...one.choices.map((name) => [name, name] as const)]} />
                  ) : (
                    <TextField {...common} placeholder={one.default === null ? "required" : one.default === "{endpoint}" ? "the endpoint's name" : one.default || "as the engine has it"} />
                  );
                })}
              </div>
            )}
          </section>
          <section class="card step" aria-labelledby="behaves">
            <h2 id="behaves"><span class="no">2</span>How it behaves</h2>
            {made ? <Standing id={made.id} /> : (
              <div class="grid3">
                <TextField label="Name" value={form.name} set={set("name")} max={255} help="Clients ask for it by this name." wrong={taken ? `${named} is taken.` : wrongOf(problem, "endpoint_name") ?? wrongOf(problem, "name")} />
                <TextField label="Most workers" wire="max_workers" numeric value={form.max_workers} set={set("max_workers")} help="In any state, at any moment." wrong={wrongOf(problem, "max_workers")} />
                <TextField label="Kept, hot or cold" wire="cold_workers" numeric value={form.cold_workers} set={set("cold_workers")} help="A cold worker starts sooner than a new one." wrong={wrongOf(problem, "cold_workers")} />
                <TextField label="Cap" wire="max_usd_h" before="$" unit="per hour" numeric value={form.max_usd_h} set={set("max_usd_h")} help="Nothing is rented past it. Empty: no cap." wrong={wrongOf(problem, "max_usd_h")} />
                <TextField label="Wait that adds capacity" wire="target_queue_time" unit="s" numeric value={form.target_queue_time} set={set("target_queue_time")} help="Beyond it, capacity is added." wrong={wrongOf(problem, "target_queue_time")} />
                <div class="field">
                  <span class="label">When nobody asks</span>
                  <Choice label="When nobody asks" value={form.min_load === "0" ? "zero" : "hot"} options={[["zero", "Go to zero"], ["hot", "Keep one hot"]] as const} choose={(value) => set("min_load")(value === "zero" ? "0" : "1")} />
                  <p class="help">{form.min_load === "0" ? "The first request starts the first worker." : "One worker serves at all times."}</p>
                </div>
                <SelectField label="Where to rent" value={form.provider} set={set("provider")} options={[["", status ? `The default: ${status.default_provider}` : "The default"], ...(providers ?? []).map((one) => [one.name, `${one.name}, of the type ${one.type}`] as const)]} />
                <TextField label="GPU" value={form.gpu} set={set("gpu")} placeholder="any that fits" help="Like RTX_4090." wrong={wrongOf(problem, "search")} />
                {(template || recipe?.gpus) && <TextField label="Memory of each GPU" unit="GB" numeric value={form.gpu_ram_gb} set={set("gpu_ram_gb")} placeholder={recipe?.gpu_ram_gb ? String(recipe.gpu_ram_gb) : "any"} help="At least so much." wrong={wrongOf(problem, "gpu_ram_gb")} />}
              </div>
            )}
          </section>
          <section class="card step" aria-labelledby="try">
            <h2 id="try"><span class="no">3</span>Try it</h2>
            {made ? (
              <>
                <p class="muted">The first request may be sent at once: it waits for the first worker, and the answer streams.</p>
                <Playground name={made.endpoint} path={`/v1/endpoints/${inPath(made)}`} model={made.endpoint} />
              </>
            ) : <p class="muted">Once it is made, a request can be sent from here.</p>}
          </section>
        </div>
        <div class="sticky">
          {made ? (
            <Card title="It is made">
              <div class="body stack">
                <p>Its workers come with the first request{form.min_load === "0" ? "" : ", and one stays"}.</p>
                <a class="button primary wide" href={endpointAt(made.endpoint)}>Open <Said text={made.endpoint} most={60} /></a>
                <a class="button wide" href={endpointAt(made.endpoint, "use")}>How to call it</a>
              </div>
            </Card>
          ) : (
            <Card title="What you will get">
              {ready && told.value ? <Figures estimate={told.value} asking={told.asking} /> : <div class="body"><p class="muted">{ready && told.asking ? "Is being worked out." : "Cost and time are shown once it is clear what it serves."}</p></div>}
              {problem && <Problem error={problem} />}
              <div class="body stack">
                <button class="button primary wide" type="button" disabled={!!why || busy} aria-describedby="whynot" onClick={create}>{busy ? "Making it" : "Create"}</button>
                <p class="help centre" id="whynot">{why || "It costs nothing until a worker starts."}</p>
              </div>
            </Card>
          )}
        </div>
      </div>
    </>
  );
}

const label = (name: string) => (name[0]!.toUpperCase() + name.slice(1)).replace(/_/g, " ");
const sentence = (text: string) => `${text[0]?.toUpperCase() ?? ""}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

function What({ recipes, templates, recipe, template, fixed }: { recipes: Recipe[]; templates: Template[]; recipe?: Recipe; template?: Template; fixed: boolean }) {
  const choose = (key: "recipe" | "template", value: string) => { ask(key === "recipe" ? "template" : "recipe", ""); ask(key, value); };
  if (fixed) return <p class="muted">{recipe ? `The recipe ${recipe.name}.` : template ? <>The template <Said text={template.name} most={80} />.</> : "What was chosen."}</p>;
  return (
    <>
      <fieldset class="cards">
        <legend class="hidden">Recipe</legend>
        {recipes.map((one) => (
          <label key={one.name}>
            <input type="radio" name="what" checked={recipe === one} onChange={() => choose("recipe", one.name)} />
            <b>{one.name}</b>
            <small>{one.desc}</small>
          </label>
        ))}
      </fieldset>
      {templates.length > 0 && (
        <SelectField label="Or a template" value={template ? String(template.id) : ""} set={(value) => choose("template", value)}
          options={[["", recipe ? "none, the recipe above" : "choose one"], ...templates.map((one) => [String(one.id), `${one.name.slice(0, 80)}, ${one.image || "without an image"}`.slice(0, 140)] as const)]} />
      )}
    </>
  );
}

function Figures({ estimate, asking }: { estimate: Estimate; asking: boolean }) {
  const { start, fitting } = estimate;
  const money = (value: number | null) => (value === null ? "–" : `${usd(value)}/h`);
  return (
    <div class={asking ? "asking" : undefined}>
      <div class="body">
        <span class="sub">First worker ready in</span>
        <p class="big">{start ? `about ${span(start.middle_s)}` : "–"}</p>
        <span class="sub">{start?.starts === 1 ? "As long as the one start of the same took here." : start ? `9 of 10 take ${span(start.low_s)} to ${span(start.high_s)}, by ${count(start.starts, "start")} of the same here` : "Not known yet: none of the same was started here. It is learned from the first."}</span>
      </div>
      <dl class="facts lined">
        <div><dt>At rest</dt><dd>{money(estimate.rest_usd_h)}</dd></div>
        <div><dt>One worker that serves</dt><dd>{money(estimate.one_usd_h)}</dd></div>
        <div><dt>At most</dt><dd>{money(estimate.most_usd_h)}</dd></div>
        <div><dt>Fitting offers now</dt><dd>{fitting.length ? fitting.map((one) => <div><Said text={one.provider} most={40} />: {count(one.offers, "offer")}, room for {count(one.workers, "worker")}</div>) : "none"}</dd></div>
        {estimate.left_usd_h !== null && <div><dt>Left of the installation's caps</dt><dd>{money(estimate.left_usd_h)}</dd></div>}
        {estimate.search && <div><dt>Machines must have</dt><dd><code><Said text={estimate.search} most={200} /></code></dd></div>}
      </dl>
      {estimate.notes.map((text) => <p class="note warn pale"><Icon name="warn" /><span><Said text={text} most={400} /></span></p>)}
    </div>
  );
}

function Standing({ id }: { id: number }) {
  const one = useLive().endpoints.get(id);
  if (!one) return <Loading />;
  const [word, look] = conditionOf(one);
  return (
    <div class="stack">
      <p class="line"><Pill look={look}>{word}</Pill> <a class="link" href={endpointAt(one.endpoint)}><Said text={one.endpoint} most={80} /></a> <span class="sub">{usd(one.figures.usd_h)}/h now</span></p>
      {one.verdict && <p class="muted">{one.verdict.title}. {one.verdict.text}</p>}
      <CapacityBar figures={one.figures} tall />
    </div>
  );
}
