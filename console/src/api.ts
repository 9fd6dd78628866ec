/** Calls to the server's management API, with the session's cookie and its second token. */
import type { components } from "./schema";

/** The server leaves no field out, also where the document gives it a default. */
type Whole<T> = T extends (infer U)[] ? Whole<U>[] : T extends object ? { [K in keyof T]-?: Whole<T[K]> } : T;
type Schemas = Whole<components["schemas"]>;
export type Session = Schemas["Session"];
export type Status = Schemas["Status"];
export type Standing = Schemas["Standing"];
export type Figures = Schemas["Figures"];
export type Verdict = Schemas["Verdict"];
export type Worker = Schemas["Worker"];
export type WorkerPage = Schemas["WorkerPage"];
export type Happened = Schemas["Happened"];
export type History = Schemas["History"];
export type JournalEntry = Schemas["JournalEntry"];
export type MoneyLeft = Schemas["MoneyLeft"];
export type Endpoint = Schemas["Endpoint"];
export type EndpointChanged = Schemas["EndpointChanged"];
export type Decided = Schemas["Decided"];
export type WorkerMoved = Schemas["WorkerMoved"];
export type Recipe = Schemas["Recipe"];
export type Estimate = Schemas["Estimate"];
export type Deployed = Schemas["Deployed"];
export type Outlook = Schemas["Outlook"];
export type Foreseen = Schemas["Foreseen"];
export type WhatIf = Schemas["WhatIf"];
export type Run = Schemas["Run"];
export type Tried = Schemas["Tried"];
export type Bill = Schemas["Bill"];
export type Costs = Schemas["Costs"];
export type BillDay = Schemas["BillDay"];
export type Act = Schemas["Act"];
export type ActCheck = Schemas["ActCheck"];
export type Key = Schemas["Key"];
export type MintedKey = Schemas["MintedKey"];
export type ConsoleUser = Schemas["ConsoleUser"];
export type Provider = Schemas["Provider"];
export type ProviderCheck = Schemas["ProviderCheck"];
export type RankedOffer = Schemas["RankedOffer"];
export type Template = Schemas["Template"];
export type Workergroup = Schemas["Workergroup"];

/** What went wrong, in words that can be shown. */
export class Failed extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly requestId = "",
  ) {
    super(message);
  }
}

let csrf = "";

async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      credentials: "same-origin",
      signal,
      headers: {
        ...(body !== undefined && { "Content-Type": "application/json" }),
        ...(method !== "GET" && { "X-CSRF-Token": csrf }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failed(0, "The server does not answer. Routing may go on regardless.");
  }
  if (answer.ok) return answer;
  const found = (await answer.json().catch(() => null)) as { msg?: string } | null;
  const text = found?.msg ?? `The server answered ${answer.status}.`;
  throw new Failed(answer.status, text, answer.headers.get("X-Request-ID") ?? "");
}

export async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  return (await send(method, path, body, signal)).json().catch(() => null) as Promise<T>;
}

/** The objects of an answer that has one a line, as they come. */
export async function* lines<T>(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<T> {
  const answer = await send("POST", path, body, signal);
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const parts = (rest + (value ?? "")).split("\n");
    rest = parts.pop()!;
    for (const part of parts) if (part) yield JSON.parse(part) as T;
    if (done) return;
  }
}

export const get = <T>(path: string, signal?: AbortSignal) => call<T>("GET", path, undefined, signal);

function remember(session: Session): Session {
  csrf = session.csrf;
  return session;
}

export const whoAmI = async () => remember(await get<Session>("/v1/session"));
export type Ways = Schemas["SignIn"];
export const ways = () => get<Ways>("/v1/sign-in");
export const signIn = async (proof: { key: string } | { name: string; password: string }) => remember(await call<Session>("POST", "/v1/session", proof));
export const signOut = () => call<Session>("DELETE", "/v1/session");

export const SCOPES = ["route", "read", "operate", "admin"] as const;
const may = (session: Session, least: (typeof SCOPES)[number]) => (SCOPES as readonly string[]).indexOf(session.scope) >= SCOPES.indexOf(least);
export const mayOperate = (session: Session) => may(session, "operate");
export const mayAdmin = (session: Session) => may(session, "admin");
