/** What workers run: recipes that come with the server, and templates. */
import { useState } from "preact/hooks";
import { call, mayOperate, type Failed, type Recipe, type Session, type Template, type Workergroup } from "../api";
import { Head } from "../app";
import { Area, TextField, wrongOf } from "../fields";
import { useAnswer } from "../live";
import { Card, Choice, Confirm, Empty, Loading, Problem, Time, count, say, useDialog } from "../parts";
import { ask, asked, at, endpointAt } from "../route";
import { Said } from "../text";

export function Templates({ session }: { session: Session }) {
  const recipes = asked("kind") === "recipes";
  return (
    <>
      <Head><h1>Recipes and templates</h1><span class="right"><Choice label="Which" value={recipes ? "recipes" : ""} options={[["", "Templates"], ["recipes", "Recipes"]] as const} choose={(value) => ask("kind", value)} /></span></Head>
      {recipes ? <Recipes /> : <Own session={session} />}
    </>
  );
}

function Recipes() {
  const { value, error, again } = useAnswer<Recipe[]>("/v1/recipes");
  return (
    <Card title="Recipes" sub="what is worked out already for an engine; an endpoint made of one has a template of its own">
      {error && <Problem error={error} again={again} />}
      {!value && !error && <Loading lines={6} />}
      {value && (
        <table class="table fold">
          <thead><tr><th scope="col">Recipe</th><th scope="col">Runs on</th><th scope="col">Must be given</th><th scope="col">Image</th><th scope="col"><span class="hidden">Acts</span></th></tr></thead>
          <tbody>{value.map((one) => (
            <tr key={one.name}>
              <th scope="row">{one.name}<small>{one.desc}</small></th>
              <td data-name="Runs on">{one.gpus ? `GPUs${one.gpu_ram_gb ? ` of ${one.gpu_ram_gb} GB or more` : ""}` : "any machine"}</td>
              <td data-name="Must be given">{one.parameters.filter((each) => each.default === null).map((each) => each.name).join(", ") || <span class="zero">nothing</span>}</td>
              <td class="hide"><code>{one.image || "–"}</code></td>
              <td class="last ends"><a class="button small" href={`${at("create")}?recipe=${encodeURIComponent(one.name)}`}>Create…<span class="hidden"> an endpoint of {one.name}</span></a></td>
            </tr>
          ))}</tbody>
        </table>
      )}
    </Card>
  );
}

function Own({ session }: { session: Session }) {
  const { value, error, again } = useAnswer<{ templates: Template[] }>("/api/v0/template", { everyMs: 30_000 });
  const { value: groups } = useAnswer<{ results: Workergroup[] }>("/api/v0/workergroups", { everyMs: 30_000 });
  const [edits, setEdits] = useState<Template | "new" | null>(null);
  const [drops, setDrops] = useState<Template | null>(null);
  const may = mayOperate(session);
  const all = value?.templates;
  return (
    <>
      <Card title="Templates" sub={all && count(all.length, "template")} right={<button class="button" type="button" disabled={!may} title={may ? undefined : "Needs a key with the scope operate"} onClick={() => setEdits("new")}>Make a template…</button>}>
        {error && <Problem error={error} again={again} />}
        {!all && !error && <Loading />}
        {all?.length === 0 && <Empty title="No template yet"><p>A template says what a worker runs: an image, its environment, and a script. An endpoint made of a recipe has one.</p><a class="button" href={at("create")}>Create an endpoint</a></Empty>}
        {all && all.length > 0 && (
          <ul class="rows">{all.map((one) => <Row key={one.id} one={one} users={groups?.results.filter((group) => group.template_id === one.id) ?? []} may={may} edit={() => setEdits(one)} drop={() => setDrops(one)} />)}</ul>
        )}
      </Card>
      {edits && <Edit one={edits === "new" ? null : edits} close={() => setEdits(null)} done={() => { setEdits(null); again(); }} />}
      {drops && (
        <Confirm title="Delete this template?" verb="Delete" danger type={drops.name} close={() => setDrops(null)} act={() => call("DELETE", "/api/v0/template", { template_id: drops.id }).then(() => { say("The template is deleted."); again(); })}>
          <p>No endpoint uses <b><Said text={drops.name} most={80} /></b>. It cannot be undone.</p>
        </Confirm>
      )}
    </>
  );
}

function Row({ one, users, may, edit, drop }: { one: Template; users: Workergroup[]; may: boolean; edit: () => void; drop: () => void }) {
  const names = [...new Set(users.map((group) => group.endpoint_name))];
  return (
    <li>
      <details>
        <summary>
          <b><Said text={one.name} most={255} /></b>
          <span class="sub"><code><Said text={one.image ? `${one.image}${one.tag ? `:${one.tag}` : ""}` : "no image"} most={120} /></code></span>
          <span class="sub">{names.length ? `used by ${count(names.length, "endpoint")}` : "not used"}</span>
          <span class="sub"><Time at={one.created_at} seconds={false} /></span>
        </summary>
        <div class="body stack">
          {one.desc && <p class="muted"><Said text={one.desc} most={2000} /></p>}
          <dl class="facts lined">
            <div><dt>Used by</dt><dd>{names.length ? names.map((name, i) => <>{i > 0 && ", "}<a class="link" href={endpointAt(name)}><Said text={name} most={80} /></a></>) : "nothing"}</dd></div>
            <div><dt>Id and hash</dt><dd><code>{one.id}, {one.hash_id}</code></dd></div>
            <div><dt>Disk</dt><dd>{one.recommended_disk_space} GB</dd></div>
            <div><dt>Machines must have</dt><dd><code><Said text={one.extra_filters === "{}" ? "nothing in particular" : String(one.extra_filters)} most={1000} /></code></dd></div>
          </dl>
          <h3>Environment and ports</h3>
          <pre class="code" tabIndex={0} aria-label="Environment and ports"><Said text={one.env || "none"} most={10_000} /></pre>
          <h3>Script</h3>
          <pre class="code tall" tabIndex={0} aria-label="Script"><Said text={one.onstart || "none"} most={20_000} /></pre>
          <div class="acts">
            <a class="button" href={`${at("create")}?template=${one.id}`}>Create an endpoint…</a>
            <button class="button" type="button" disabled={!may} onClick={edit}>Change…</button>
            <button class="button danger" type="button" disabled={!may || users.length > 0} title={users.length ? "An endpoint uses it" : undefined} onClick={drop}>Delete…</button>
          </div>
        </div>
      </details>
    </li>
  );
}

const FIELDS = ["name", "image", "tag", "env", "onstart", "desc", "extra_filters"] as const;

function Edit({ one, close, done }: { one: Template | null; close: () => void; done: () => void }) {
  const [form, setForm] = useState<Record<string, string>>(() => Object.fromEntries(FIELDS.map((key) => [key, one ? String(one[key] ?? "") : key === "env" ? "-p 3000:3000" : ""])));
  const [disk, setDisk] = useState(String(one?.recommended_disk_space ?? 10));
  const [error, setError] = useState<Failed | null>(null);
  const bind = (key: (typeof FIELDS)[number], wire: string = key) => ({ wire, value: form[key] ?? "", set: (value: string) => { setError(null); setForm({ ...form, [key]: value }); }, wrong: wrongOf(error, key) });
  const save = async (event: Event) => {
    event.preventDefault();
    try {
      await call(one ? "PUT" : "POST", "/api/v0/template", { ...form, recommended_disk_space: Number(disk), ...(one && { id: one.id, hash_id: one.hash_id }) });
      say(one ? "The template is changed." : "The template is made.");
      done();
    } catch (problem) {
      setError(problem as Failed);
    }
  };
  return (
    <dialog class="dialog broad" ref={useDialog()} aria-labelledby="template" onClose={close}>
      <form onSubmit={save} noValidate>
        <h2 id="template">{one ? "Change a template" : "Make a template"}</h2>
        {one && <p class="muted">Workers that run it are updated one after another: first one alone, which is compared with the others.</p>}
        <div class="grid2">
          <TextField label="Name" {...bind("name")} max={255} />
          <TextField label="Disk" wire="recommended_disk_space" unit="GB" numeric value={disk} set={setDisk} wrong={wrongOf(error, "recommended_disk_space")} />
          <TextField label="Image" {...bind("image")} placeholder="for providers of containers" />
          <TextField label="Tag" {...bind("tag")} />
        </div>
        <Area label="Environment and ports" {...bind("env")} mono rows={2} help="As docker run has them: -e NAME=VALUE -p 3000:3000." />
        <Area label="Script" {...bind("onstart")} mono rows={8} help="Run at every start of a worker." />
        <TextField label="Machines must have" {...bind("extra_filters")} placeholder="like num_gpus=1 gpu_ram>=24" />
        <TextField label="Description" {...bind("desc")} />
        {error && <Problem error={error} />}
        <div class="acts"><button class="button" type="button" onClick={close}>Cancel</button><button class="button primary" type="submit" disabled={!form.name?.trim()}>{one ? "Save" : "Make it"}</button></div>
      </form>
    </dialog>
  );
}
