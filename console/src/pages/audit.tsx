/** Who changed what, and what people did by hand; whether the record is whole. */
import { useEffect, useState } from "preact/hooks";
import { get, mayAdmin, type Act, type ActCheck, type Failed, type Session } from "../api";
import { Head } from "../app";
import { useAnswer } from "../live";
import { Card, Choice, Empty, Glyph, Loading, Problem, Time, count } from "../parts";
import { ask, asked } from "../route";
import { Said } from "../text";

const KINDS = [["", "All"], ["endpoint", "Endpoints"], ["worker", "Workers"], ["template", "Templates"], ["workergroup", "Workergroups"], ["key", "Keys"], ["session", "Sign-ins"], ["settings", "Settings"]] as const;
const PAGE = 100;
const DONE: Record<string, string> = { create: "made", update: "changed", delete: "deleted", begin: "begun", end: "ended", drain: "drained", undrain: "no longer drains", restart: "restarted", destroy: "destroyed", revoke: "revoked" };

export function Audit({ session }: { session: Session }) {
  const may = mayAdmin(session);
  return (
    <>
      <Head><h1>Audit</h1><span class="sub">who changed what</span></Head>
      {may ? <Acts session={session} /> : <Card title="Audit"><Empty title="The record is for admins"><p>Your key has the scope {session.scope}.</p></Empty></Card>}
    </>
  );
}

function Acts({ session }: { session: Session }) {
  const kind = asked("kind");
  const path = `/v1/audit?limit=${PAGE}&action=${encodeURIComponent(kind)}`;
  const { value, error, again } = useAnswer<Act[]>(path, { everyMs: 10_000 });
  const [older, setOlder] = useState<{ of: string; rows: Act[]; all: boolean }>({ of: "", rows: [], all: false });
  const [failed, setFailed] = useState<Failed | null>(null);
  const [checked, setChecked] = useState<ActCheck | "asked" | null>(null);
  useEffect(() => setOlder({ of: path, rows: [], all: false }), [path]);
  const first = value ?? [];
  const rows = [...first, ...older.rows.filter((one) => !first.some((other) => other.id === one.id))];
  const more = async () => {
    try {
      const found = await get<Act[]>(`${path}&before=${rows.at(-1)!.id}`);
      setOlder({ of: path, rows: [...older.rows, ...found], all: found.length < PAGE });
    } catch (problem) {
      setFailed(problem as Failed);
    }
  };
  const check = async () => {
    setChecked("asked");
    setFailed(null);
    try {
      setChecked(await get<ActCheck>("/v1/audit/verify"));
    } catch (problem) {
      setChecked(null);
      setFailed(problem as Failed);
    }
  };
  return (
    <>
      <div class="filters">
        <Choice label="Kind" value={kind as ""} options={KINDS as readonly (readonly ["", string])[]} choose={(value) => ask("kind", value)} />
        {session.account === "default" && <button class="button" type="button" disabled={checked === "asked"} onClick={check}>{checked === "asked" ? "Checking" : "Check the record"}</button>}
      </div>
      {checked && checked !== "asked" && (
        <div class={`note${checked.ok ? "" : " bad"}`} role="status">
          <p class="line"><Glyph look={checked.ok ? "hot" : "failed"} /><b>{checked.ok ? `All ${count(checked.rows, "row")} are as they were written.` : "The record was changed."}</b></p>
          {checked.problems.map((text) => <p><Said text={text} most={400} /></p>)}
          {checked.head && <p class="sub">The last row is <code>{checked.head}</code>. Note it elsewhere: shown again to <code>posthouse audit verify</code>, it tells whether the end was cut off.</p>}
        </div>
      )}
      <Card title="What was done" sub="the latest first">
        {(error ?? failed) && <Problem error={(error ?? failed)!} again={again} />}
        {!value && !error && <Loading lines={6} />}
        {value && !rows.length && <Empty title="Nothing of this kind was done"><button class="button" type="button" onClick={() => ask("kind", "")}>Show all</button></Empty>}
        {rows.length > 0 && <ul class="rows acted">{rows.map((one) => <Row key={one.id} one={one} />)}</ul>}
        {rows.length >= PAGE && !older.all && <p class="body"><button class="button" type="button" onClick={more}>Show older</button></p>}
      </Card>
    </>
  );
}

function Row({ one }: { one: Act }) {
  const [kind = "", what = ""] = one.action.split(".");
  const fields = [...new Set([...Object.keys(one.before), ...Object.keys(one.after)])];
  return (
    <li>
      <details>
        <summary>
          <Time at={one.at} />
          <b>{kind[0]?.toUpperCase()}{kind.slice(1)} {DONE[what] ?? what.replace(/_/g, " ")}</b>
          <span><Said text={one.name || one.subject} most={120} /></span>
          <span class="sub">{one.via === "server" ? "the server" : <Said text={one.key_name || one.key_id || one.via} most={80} />}{one.via === "console" && ", here"}</span>
        </summary>
        <div class="body stack">
          {fields.length > 0 && (
            <dl class="facts lined diff">
              {fields.map((key) => (
                <div><dt><code><Said text={key} most={80} /></code></dt><dd>{key in one.before && <del><Said text={written(one.before[key])} most={600} /></del>}{key in one.before && key in one.after && <> <span aria-hidden="true">→</span> </>}{key in one.after && <ins><Said text={written(one.after[key])} most={600} /></ins>}</dd></div>
              ))}
            </dl>
          )}
          <p class="sub">Row {one.id}. <code>{one.action}</code> of <code><Said text={one.subject} most={120} /></code>{one.call && <>, by <code>{one.call}</code></>}{one.request_id && <>, request <code><Said text={one.request_id} most={64} /></code></>}. Account <Said text={one.account} most={80} />.</p>
        </div>
      </details>
    </li>
  );
}

const written = (value: unknown) => (value === null || value === undefined ? "none" : typeof value === "string" ? value || "empty" : JSON.stringify(value));
