/** Who is signed in, the shell, and which page is shown. */
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Failed, signOut, whoAmI, type Session } from "./api";
import { span } from "./format";
import { useKeys } from "./keys";
import { live, useLive } from "./live";
import { EndpointPage } from "./pages/endpoint";
import { Overview } from "./pages/overview";
import { SignIn } from "./pages/signin";
import { WorkerPage } from "./pages/worker";
import { Workers } from "./pages/workers";
import { Card, Empty, Icon, Mark, Problem, Toasts } from "./parts";
import { followLinks, home, usePlace, workersAt } from "./route";
import { Said, plain } from "./text";
import { kept, type Theme } from "./kept";

export function App() {
  const [session, set] = useState<Session | null | undefined>(undefined);
  const [failed, setFailed] = useState<Failed | null>(null);
  const ask = () => {
    setFailed(null);
    if (!kept.signedIn()) return set(null);
    whoAmI().then(set, (error: Failed) => (error.status === 401 ? set(null) : setFailed(error)));
  };
  useEffect(ask, []);
  useEffect(() => {
    if (session !== undefined) kept.remember(session !== null);
    if (session) live.begin();
    return () => live.end();
  }, [session]);
  if (failed) return <main class="alone"><Problem error={failed} again={ask} /></main>;
  if (session === undefined) return null;
  if (session === null) return <SignIn done={set} />;
  const leave = () => signOut().then(() => set(null), () => set(null));
  return <Shell session={session} leave={leave} ended={() => set(null)} />;
}

function Shell({ session, leave, ended }: { session: Session; leave: () => void; ended: () => void }) {
  const { page, name } = usePlace();
  const state = useLive();
  useEffect(() => {
    if (state.ended) ended();
  }, [state.ended]);
  const [help, setHelp] = useState(false);
  useKeys(() => setHelp(true));
  const red = [...state.endpoints.values()].filter((one) => one.verdict && !one.verdict.mends).length;
  const workers = [...state.endpoints.values()].reduce((sum, one) => sum + Object.values(one.figures.looks).reduce((a, b) => a + b, 0), 0);
  const links: [string, string, "overview" | "workers", ComponentChildren][] = [
    ["Overview", home, "overview", red > 0 && <span class="count bad">{red}<span class="hidden"> need you</span></span>],
    ["Workers", workersAt, "workers", state.status && <span class="count">{workers}</span>],
  ];
  const current = page === "endpoint" ? "overview" : page === "worker" ? "workers" : page;
  const shown = {
    overview: <Overview session={session} />,
    workers: <Workers />,
    endpoint: <EndpointPage key={name} name={name} session={session} />,
    worker: <WorkerPage key={name} id={name} session={session} />,
    none: <Missing what={name} />,
  }[page];
  return (
    <div class="app" onClick={followLinks}>
      <a class="skip" href="#main">Skip to content</a>
      <nav class="rail" aria-label="Main">
        <a class="brand" href={home}><Mark />Posthouse</a>
        {links.map(([title, address, key, note]) => (
          <a class="nav" href={address} aria-current={current === key ? "page" : undefined}><Icon name={key} />{title}{note}</a>
        ))}
        <div class="foot">
          <a class="nav" href="/docs" target="_blank" rel="noreferrer"><Icon name="book" />API reference</a>
          <ThemeButton />
          <button class="nav" type="button" onClick={leave}><Icon name="out" />Sign out</button>
          <div class="who">
            <b><Said text={session.name} most={40} /></b>
            <small>{session.scope} · {plain(session.account)} · {session.installation}</small>
          </div>
        </div>
      </nav>
      <div class="column">
        {state.connection === "lost" && state.status && (
          <div class="banner" role="alert">
            <Icon name="warn" /> Nothing is heard of the server{state.failed && `: ${state.failed}`} What is shown is old. Trying again.
          </div>
        )}
        <main id="main" tabIndex={-1} class={state.connection === "live" ? undefined : "old"}>{shown}</main>
      </div>
      <nav class="bottom" aria-label="Main, at the foot">
        {links.map(([title, address, key]) => (
          <a href={address} aria-current={current === key ? "page" : undefined}><Icon name={key} />{title}</a>
        ))}
        <ThemeButton />
        <button type="button" onClick={leave}><Icon name="out" />Sign out</button>
      </nav>
      <Toasts />
      {help && <KeyList close={() => setHelp(false)} />}
    </div>
  );
}

const THEMES: Record<Theme, [Theme, string]> = {
  system: ["light", "System theme"],
  light: ["dark", "Light theme"],
  dark: ["system", "Dark theme"],
};

function ThemeButton() {
  const [now, set] = useState(kept.theme());
  const [next, name] = THEMES[now];
  return (
    <button class="nav" type="button" title={`Change to: ${next}`} onClick={() => { kept.setTheme(next); set(next); }}>
      <Icon name="theme" /><span>{name}</span>
    </button>
  );
}

/** How old what is seen is: in shape and word, not in colour alone. */
export function Connection() {
  const state = useLive();
  const age = Date.now() / 1000 - state.heardAt;
  const words = { live: "Live", stale: `Stale, last update ${span(age)} ago`, lost: "Lost" }[state.connection];
  return <span class={`connection is-${state.connection}`} role="status">{state.heardAt ? words : "Connecting"}</span>;
}

export function Head({ crumbs, children }: { crumbs?: ComponentChildren; children: ComponentChildren }) {
  return (
    <header class="head">
      {crumbs && <div class="crumbs">{crumbs}</div>}
      <div class="line">{children}</div>
      <Connection />
    </header>
  );
}

function Missing({ what }: { what: string }) {
  return (
    <>
      <Head><h1>Not found</h1></Head>
      <Card title="There is no such page">
        <Empty title="This address leads nowhere">
          <p><code>{plain(what)}</code></p>
          <a class="button" href={home}>To the overview</a>
        </Empty>
      </Card>
    </>
  );
}

function KeyList({ close }: { close: () => void }) {
  const keys = [["g o", "Overview"], ["g w", "Workers"], ["/", "Find in a list or a log"], ["j, k", "Next, last row"], ["Enter", "Open the row"], ["?", "This list"], ["Esc", "Close"]];
  return (
    <dialog class="dialog" ref={(el) => void (el && !el.open && el.showModal())} aria-labelledby="keys" onClose={close}>
      <h2 id="keys">Keys</h2>
      <dl class="keys">{keys.map(([key, what]) => <div><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
      <form method="dialog"><div class="acts"><button class="button" type="submit">Close</button></div></form>
    </dialog>
  );
}
