import { useState } from "preact/hooks";
import { signIn, type Failed, type Session } from "../api";
import { Icon, Mark } from "../parts";

export function SignIn({ done }: { done: (session: Session) => void }) {
  const [key, setKey] = useState("");
  const [error, setError] = useState<Failed | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (!key.trim() || busy) return;
    setBusy(true);
    try {
      done(await signIn(key.trim()));
    } catch (problem) {
      setError(problem as Failed);
      setBusy(false);
    }
  };
  return (
    <main class="door">
      <div class="in">
        <form onSubmit={submit} noValidate>
          <span class="brand"><Mark />Posthouse</span>
          <h1>Sign in</h1>
          <input class="hidden" type="text" name="username" value="posthouse" autocomplete="username" readOnly tabIndex={-1} aria-hidden="true" />
          <label class="field" for="key">
            <span>Account key</span>
            <input id="key" type="password" name="key" autocomplete="current-password" spellcheck={false} autofocus value={key}
              aria-invalid={error ? true : undefined} aria-describedby="help" onInput={(e) => setKey(e.currentTarget.value)} />
          </label>
          {error && <p class="wrong" role="alert"><Icon name="warn" />{worded(error)}</p>}
          <button class="button primary wide" type="submit" disabled={busy}>{busy ? "Signing in" : "Sign in"}</button>
          <p class="help" id="help">
            The first start of the server printed an account key; it is in the file <code>admin-key</code> of the data directory. For more, run <code>posthouse key create</code>.
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

function worded(error: Failed): string {
  if (error.status === 401) return "This key is wrong or revoked.";
  if (error.status === 429) return "Too many wrong keys came from here. Wait a moment, then try again.";
  return error.message;
}
