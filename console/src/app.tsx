/** Who is signed in, the shell, and which page is shown. */
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Failed, signOut, whoAmI, type Session } from "./api";
import { span } from "./format";
import { useKeys } from "./keys";
import { live, useLive } from "./live";
import { Audit } from "./pages/audit";
import { Costs } from "./pages/costs";
import { Create } from "./pages/create";
import { EndpointPage } from "./pages/endpoint";
import { Keys } from "./pages/keys";
import { Offers } from "./pages/offers";
import { Overview } from "./pages/overview";
import { SignIn } from "./pages/signin";
import { Templates } from "./pages/templates";
import { WhatIfPage } from "./pages/whatif";
import { WorkerPage } from "./pages/worker";
import { Workers } from "./pages/workers";
import { Card, Empty, Icon, Mark, Problem, Toasts } from "./parts";
import { Palette } from "./palette";
import { at, followLinks, home, usePlace, type Page } from "./route";
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
  const { page, name, tab } = usePlace();
  const state = useLive();
  useEffect(() => {
    if (state.ended) ended();
  }, [state.ended]);
  const [help, setHelp] = useState(false);
  const [finds, setFinds] = useState(false);
  const find = () => setFinds(true);
  useKeys(() => setHelp(true), find);
  const red = [...state.endpoints.values()].filter((one) => one.verdict && !one.verdict.mends).length;
  const workers = [...state.endpoints.values()].reduce((sum, one) => sum + Object.values(one.figures.looks).reduce((a, b) => a + b, 0), 0);
  const sections: [string, Link[]][] = [
    ["", [
      ["Overview", home, "overview", red > 0 && <span class="count bad">{red}<span class="hidden"> need you</span></span>],
      ["Workers", at("workers"), "workers", state.status && <span class="count">{workers}</span>],
      ["Costs", at("costs"), "costs"],
      ["What if", at("what-if"), "what-if"],
    ]],
    ["Supply", [
      ["Create", at("create"), "create"],
      ["Recipes and templates", at("templates"), "templates"],
      ["Providers and offers", at("offers"), "offers"],
    ]],
    ["Access", [["Keys", at("keys"), "keys"], ["Audit", at("audit"), "audit"]]],
  ];
  const links = sections.flatMap(([, each]) => each);
  const current = page === "endpoint" ? (tab === "what-if" ? "what-if" : "overview") : page === "worker" ? "workers" : page;
  const shown = {
    overview: <Overview session={session} />,
    workers: <Workers />,
    endpoint: <EndpointPage key={name} name={name} tab={tab} session={session} />,
    worker: <WorkerPage key={name} id={name} session={session} />,
    create: <Create session={session} />,
    costs: <Costs />,
    "what-if": <WhatIfPage />,
    templates: <Templates session={session} />,
    offers: <Offers session={session} />,
    keys: <Keys session={session} />,
    audit: <Audit session={session} />,
    none: <Missing what={name} />,
  }[page];
  const [more, setMore] = useState(false);
  return (
    <div class="app" onClick={followLinks}>
      <a class="skip" href="#main">Skip to content</a>
      <nav class="rail" aria-label="Main">
        <a class="brand" href={home}><Mark />Posthouse</a>
        <button class="nav" type="button" onClick={find}><Icon name="search" />Find or do…<kbd>Ctrl K</kbd></button>
        {sections.map(([heading, each]) => (
          <>
            {heading && <h2>{heading}</h2>}
            {each.map(([title, address, key, note]) => (
              <a class="nav" href={address} aria-current={current === key ? "page" : undefined}><Icon name={key} />{title}{note}</a>
            ))}
          </>
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
        {links.filter(([, , key]) => NARROW.includes(key)).map(([title, address, key]) => (
          <a href={address} aria-current={current === key ? "page" : undefined}><Icon name={key} />{title}</a>
        ))}
        <button type="button" aria-expanded={more} aria-haspopup="dialog" aria-current={NARROW.includes(current) ? undefined : "page"} onClick={() => setMore(true)}><Icon name="more" />More</button>
      </nav>
      {more && (
        <dialog class="dialog menu" aria-label="More" ref={(el) => void (el && !el.open && el.showModal())} onClose={() => setMore(false)} onClick={() => setMore(false)}>
          <button class="nav" type="button" onClick={find}><Icon name="search" />Find or do…</button>
          {links.filter(([, , key]) => !NARROW.includes(key)).map(([title, address, key]) => <a class="nav" href={address} aria-current={current === key ? "page" : undefined}><Icon name={key} />{title}</a>)}
          <a class="nav" href="/docs" target="_blank" rel="noreferrer"><Icon name="book" />API reference</a>
          <ThemeButton />
          <button class="nav" type="button" onClick={leave}><Icon name="out" />Sign out</button>
        </dialog>
      )}
      <Toasts />
      {finds && <Palette pages={links.map(([title, address]) => [title, address] as const)} close={() => setFinds(false)} />}
      {help && <KeyList close={() => setHelp(false)} />}
    </div>
  );
}

type Link = [string, string, "overview" | Page, ComponentChildren?];
const NARROW: string[] = ["overview", "workers", "costs", "create"];

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
  const keys = [["g o", "Overview"], ["g w", "Workers"], ["g c", "Costs"], ["g i", "What if"], ["g n", "Create"], ["g t", "Recipes and templates"], ["g p", "Providers and offers"], ["g k", "Keys"], ["g a", "Audit"], ["Ctrl K", "Find or do: pages, endpoints, workers, acts"], ["/", "Find in the list or the log of the page"], ["u", "Undo what was just done"], ["j, k", "Next, last row"], ["Enter", "Open the row"], ["?", "This list"], ["Esc", "Close"]];
  return (
    <dialog class="dialog" ref={(el) => void (el && !el.open && el.showModal())} aria-labelledby="keys" onClose={close}>
      <h2 id="keys">Keys</h2>
      <dl class="keys">{keys.map(([key, what]) => <div><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>)}</dl>
      <form method="dialog"><div class="acts"><button class="button" type="submit">Close</button></div></form>
    </dialog>
  );
}
