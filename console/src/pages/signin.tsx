import { useEffect, useState } from "preact/hooks";
import { signIn, ways, type Failed, type Session, type Ways } from "../api";
import { kept } from "../kept";
import { Choice, Icon, Mark } from "../parts";
import { asked } from "../route";
import { plain } from "../text";

const WITH = [["password", "Password"], ["key", "Account key"]] as const;
type With = (typeof WITH)[number][0];
const REFUSED: Record<string, string> = {
  "not-admitted": "The provider knows you, but nobody admits you here. Ask whoever runs this server.",
  failed: "Signing in at the provider did not work. Try again; the log of the server says why.",
};

export function SignIn({ done }: { done: (session: Session) => void }) {
  const [known, setKnown] = useState<Ways>();
  const [by, setBy] = useState<With>("key");
  useEffect(() => {
    const take = (found: Ways) => { setKnown(found); setBy(found.passwords ? "password" : "key"); };
    ways().then(take, () => take({ passwords: false, oidc: "" }));
  }, []);
  const [name, setName] = useState("");
  const [secret, setSecret] = useState("");
  const [error, setError] = useState<Failed | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!secret.trim() || busy) return;
    setBusy(true);
    try {
      done(await signIn(by === "key" ? { key: secret.trim() } : { name: name.trim(), password: secret }));
    } catch (problem) {
      setError(problem as Failed);
      setBusy(false);
    }
  };
  const wrong = error ? worded(error, by) : REFUSED[asked("refused")];
  return (
    <main class="door">
      <div class="in">
        <form onSubmit={submit} noValidate>
          <span class="brand"><Mark />Posthouse</span>
          <h1>Sign in</h1>
          {known?.oidc && (
            <>
              <a class="button wide" href={`/v1/oidc/begin?leads_to=${encodeURIComponent(here())}`} onClick={() => kept.remember(true)}>Continue with {plain(known.oidc)}</a>
              <p class="or"><span>or</span></p>
            </>
          )}
          {known?.passwords && <Choice label="Sign in with" value={by} options={WITH} choose={(way) => { setBy(way); setSecret(""); setError(null); }} />}
          {known && by === "password" && (
            <label class="field" for="name">
              <span>Name</span>
              <input id="name" type="text" name="username" autocomplete="username" autocapitalize="none" spellcheck={false} autofocus value={name} onInput={(e) => setName(e.currentTarget.value)} />
            </label>
          )}
          {known && by === "key" && <input class="hidden" type="text" name="username" value="posthouse" autocomplete="username" readOnly tabIndex={-1} aria-hidden="true" />}
          {known && (
            <label class="field" for="key" key={by}>
              <span>{by === "key" ? "Account key" : "Password"}</span>
              <input id="key" type="password" name="key" autocomplete="current-password" spellcheck={false} autofocus={by === "key"} value={secret}
                aria-invalid={error ? true : undefined} aria-describedby="help" onInput={(e) => setSecret(e.currentTarget.value)} />
            </label>
          )}
          {wrong && <p class="wrong" role="alert"><Icon name="warn" />{wrong}</p>}
          <button class="button primary wide" type="submit" disabled={busy || !known}>{busy ? "Signing in" : "Sign in"}</button>
          <p class="help" id="help">
            {by === "key" ? (
              <>The first start of the server printed an account key; it is in the file <code>admin-key</code> of the data directory. For more, run <code>posthouse key create</code>.</>
            ) : (
              <>An admin gives you another password with <code>posthouse user update --password</code>.</>
            )}
          </p>
        </form>
      </div>
      <div class="side" aria-hidden="true">
        <svg viewBox="0 0 600 240">
          <path class="cold" d="M-9 96H150V66H330V44H609V269H-9z" />
          <path class="hot" d="M-9 164H110V136H250V102H410V78H609V269H-9z" />
          <path class="load" d="M0 186C40 180 66 184 100 172S160 150 196 146 250 142 284 126 340 118 372 116 430 100 470 98 540 88 600 92" />
        </svg>
        <p>The load in ink, what serves it in green, what else could in blue.</p>
      </div>
    </main>
  );
}

/** This address, to come back to, without what it says of an attempt before. */
function here(): string {
  const query = new URLSearchParams(location.search);
  query.delete("refused");
  return location.pathname + (query.size ? `?${query}` : "");
}

function worded(error: Failed, by: With): string {
  if (error.status === 401) return by === "key" ? "This key is wrong or revoked." : "The name or the password is wrong.";
  if (error.status === 429) return by === "key" ? "Too many wrong keys came from here. Wait a moment, then try again." : "Too many passwords were tried. Wait a minute, then try again.";
  return error.message;
}
