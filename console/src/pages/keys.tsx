/** Account keys: made, limited and revoked. The key itself is shown once. */
import { useState } from "preact/hooks";
import { call, mayAdmin, SCOPES, type ConsoleUser, type Failed, type Key, type MintedKey, type Session } from "../api";
import { Head } from "../app";
import { CopyButton, SelectField, TextField, wrongOf } from "../fields";
import { useAnswer } from "../live";
import { Card, Choice, Confirm, Empty, Loading, Pill, Problem, Time, count, say, usd, useDialog, work } from "../parts";
import { ask, asked } from "../route";
import { Said } from "../text";

const LIMITS = [
  ["requests_per_minute", "Requests per minute", "As a mean; so many at once after a quiet minute."],
  ["work_per_minute", "Work per minute", "For models of text: tokens that they write."],
  ["at_once", "Requests at once", "That wait or run."],
] as const;
const MAY: Record<string, string> = {
  route: "send requests to endpoints",
  read: "also see everything but keys and secrets",
  operate: "also make, change and delete endpoints, templates and workers",
  admin: "also make and revoke keys",
};

export function Keys({ session }: { session: Session }) {
  const may = mayAdmin(session);
  const { value, error, again } = useAnswer<Key[]>(may ? "/v1/keys" : "", { everyMs: 15_000 });
  const [edits, setEdits] = useState<Key | "new" | null>(null);
  const [minted, setMinted] = useState<MintedKey | null>(null);
  const [revokes, setRevokes] = useState<Key | null>(null);
  const all = asked("revoked") === "all";
  const shown = value?.filter((one) => all || !one.revoked_at).sort((a, b) => Number(!!a.revoked_at) - Number(!!b.revoked_at) || b.created_at - a.created_at);
  const gone = value?.filter((one) => one.revoked_at).length ?? 0;
  return (
    <>
      <Head><h1>Keys</h1><span class="right"><button class="button primary" type="button" disabled={!may} onClick={() => setEdits("new")}>Make a key…</button></span></Head>
      {!may ? (
        <Card title="Keys"><Empty title="Keys are for admins"><p>Your key has the scope {session.scope}. Whoever has a key with the scope admin can make one for you.</p></Empty></Card>
      ) : (
        <Card title="Account keys" sub={shown && count(shown.length, "key")} right={gone > 0 && <Choice label="Which" value={all ? "all" : ""} options={[["", "In use"], ["all", `With ${gone} revoked`]] as const} choose={(value) => ask("revoked", value)} />}>
          {error && <Problem error={error} again={again} />}
          {!value && !error && <Loading />}
          {shown && shown.length > 0 && (
            <table class="table fold">
              <thead><tr><th scope="col">Name</th><th scope="col">Scope</th><th scope="col">Limits</th><th scope="col" class="number">Used</th><th scope="col" class="number">This month</th><th scope="col">Last used</th><th scope="col">Made</th><th scope="col"><span class="hidden">Acts</span></th></tr></thead>
              <tbody>{shown.map((one) => (
                <tr key={one.id} class={one.revoked_at ? "past" : undefined}>
                  <th scope="row"><Said text={one.name} most={255} /><small><code>ph_{one.id}</code>{one.account !== session.account && <> of <Said text={one.account} most={80} /></>}</small></th>
                  <td data-name="Scope">{one.revoked_at ? <Pill look="gone">Revoked</Pill> : <span title={MAY[one.scope]}>{one.scope}</span>}</td>
                  <td data-name="Limits">{limits(one)}</td>
                  <td class="number" data-name="Used">{one.used_requests ? <>{one.used_requests.toLocaleString("en-US")}<small>{work(one.used_work)} work{one.refused_requests > 0 && `, ${one.refused_requests} refused`}</small></> : <span class="zero">{limited(one) ? 0 : "not counted"}</span>}</td>
                  <td class="number" data-name="This month">{one.usd_month ? usd(one.usd_month) : <span class="zero">$0.00</span>}</td>
                  <td data-name="Last used">{one.last_used_at ? <Time at={one.last_used_at} seconds={false} /> : "never"}</td>
                  <td data-name="Made"><Time at={one.created_at} seconds={false} /></td>
                  <td class="last ends">{!one.revoked_at && (
                    <span class="acts">
                      <button class="button small" type="button" onClick={() => setEdits(one)}>Change…<span class="hidden"> {one.name}</span></button>
                      <button class="button small danger" type="button" onClick={() => setRevokes(one)}>Revoke…<span class="hidden"> {one.name}</span></button>
                    </span>
                  )}</td>
                </tr>
              ))}</tbody>
            </table>
          )}
        </Card>
      )}
      {may && <Users session={session} />}
      {edits && <Edit one={edits === "new" ? null : edits} close={() => setEdits(null)} again={again} done={(made) => { setEdits(null); again(); if (made) setMinted(made); }} />}
      {minted && <Minted one={minted} close={() => setMinted(null)} />}
      {revokes && (
        <Confirm title="Revoke this key?" verb="Revoke" danger type={revokes.name} close={() => setRevokes(null)} act={() => call("DELETE", `/v1/keys/${revokes.id}`).then(() => { say(`The key ${revokes.name} is revoked.`); again(); })}>
          <p>Whoever uses <b><Said text={revokes.name} most={80} /></b> is refused at once, and sessions of the console that were opened with it end. It cannot be undone.</p>
        </Confirm>
      )}
    </>
  );
}

/** Who signs in with a password; made by the command line. */
function Users({ session }: { session: Session }) {
  const { value } = useAnswer<ConsoleUser[]>("/v1/users", { everyMs: 15_000 });
  if (!value) return null;
  return (
    <Card title="Users with a password" sub={value.length ? count(value.length, "user") : undefined}>
      {!value.length && <Empty title="Everybody signs in with a key"><p>Run <code>posthouse user create NAME</code> to let somebody sign in here with a name and a password.</p></Empty>}
      {value.length > 0 && (
        <table class="table fold">
          <thead><tr><th scope="col">Name</th><th scope="col">Scope</th><th scope="col">Account</th><th scope="col">Made</th></tr></thead>
          <tbody>{value.map((one) => (
            <tr key={one.name}>
              <th scope="row"><Said text={one.name} most={255} /></th>
              <td data-name="Scope"><span title={MAY[one.scope]}>{one.scope}</span></td>
              <td data-name="Account">{one.account === session.account ? "yours" : <Said text={one.account} most={80} />}</td>
              <td data-name="Made"><Time at={one.created_at} seconds={false} /></td>
            </tr>
          ))}</tbody>
        </table>
      )}
    </Card>
  );
}

const limited = (one: Key) => LIMITS.some(([key]) => one[key]);
function limits(one: Key) {
  const words = [one.requests_per_minute && `${one.requests_per_minute.toLocaleString("en-US")} requests/min`, one.work_per_minute && `${work(one.work_per_minute)} work/min`, one.at_once && `${one.at_once} at once`].filter(Boolean);
  return words.length ? words.join(", ") : <span class="zero">none</span>;
}

function Edit({ one, close, again, done }: { one: Key | null; close: () => void; again: () => void; done: (made: MintedKey | null) => void }) {
  const ref = useDialog();
  const [name, setName] = useState(one?.name ?? "");
  const [scope, setScope] = useState(one?.scope ?? "route");
  const [bounds, setBounds] = useState<Record<string, string>>(Object.fromEntries(LIMITS.map(([key]) => [key, one?.[key] ? String(one[key]) : ""])));
  const [error, setError] = useState<Failed | null>(null);
  const save = async (event: Event) => {
    event.preventDefault();
    const body: Partial<Key> = { name: name.trim(), ...Object.fromEntries(LIMITS.map(([key]) => [key, Number(bounds[key]!.replace(/,/g, "")) || 0])) };
    try {
      if (one) {
        const put = (fields: Partial<Key>) => call("PUT", `/v1/keys/${one.id}`, fields);
        await put(body);
        const before = Object.fromEntries(Object.keys(body).map((key) => [key, one[key as keyof Key]]));
        say(`The key ${name.trim()} is changed.`, { undo: () => put(before).then(again) });
        done(null);
      } else done(await call<MintedKey>("POST", "/v1/keys", { ...body, scope }));
    } catch (problem) {
      setError(problem as Failed);
    }
  };
  return (
    <dialog class="dialog" ref={ref} aria-labelledby="edit" onClose={close}>
      <form onSubmit={save} noValidate>
        <h2 id="edit">{one ? "Change a key" : "Make a key"}</h2>
        <TextField label="Name" value={name} set={setName} max={255} help="What or who it is for." wrong={wrongOf(error, "name")} />
        {!one && <SelectField label="Scope" value={scope} set={setScope} options={SCOPES.map((each) => [each, each] as const)} help={`It may ${MAY[scope]}.`} />}
        {LIMITS.map(([key, label, help]) => <TextField key={key} label={label} wire={key} numeric value={bounds[key]!} placeholder="no limit" set={(value) => setBounds({ ...bounds, [key]: value })} help={help} wrong={wrongOf(error, key)} />)}
        {error && <Problem error={error} />}
        <div class="acts"><button class="button" type="button" onClick={close}>Cancel</button><button class="button primary" type="submit" disabled={!name.trim()}>{one ? "Save" : "Make it"}</button></div>
      </form>
    </dialog>
  );
}

function Minted({ one, close }: { one: MintedKey; close: () => void }) {
  return (
    <dialog class="dialog" ref={useDialog()} aria-labelledby="minted" onClose={close}>
      <form method="dialog">
        <h2 id="minted">The key <Said text={one.name} most={80} /></h2>
        <p class="muted">It is shown now and never again: only a digest of it is kept. It may {MAY[one.scope]}.</p>
        <code class="secret" tabIndex={0}>{one.key}</code>
        <div class="acts"><CopyButton text={one.key} small={false} /><button class="button primary" type="submit">I have it</button></div>
      </form>
    </dialog>
  );
}
