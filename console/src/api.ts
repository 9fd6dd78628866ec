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

export async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
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
  const found: unknown = await answer.json().catch(() => null);
  if (!answer.ok) {
    const text = (found as { msg?: string } | null)?.msg ?? `The server answered ${answer.status}.`;
    throw new Failed(answer.status, text, answer.headers.get("X-Request-ID") ?? "");
  }
  return found as T;
}

export const get = <T>(path: string, signal?: AbortSignal) => call<T>("GET", path, undefined, signal);

function remember(session: Session): Session {
  csrf = session.csrf;
  return session;
}

export const whoAmI = async () => remember(await get<Session>("/v1/session"));
export const signIn = async (key: string) => remember(await call<Session>("POST", "/v1/session", { key }));
export const signOut = () => call<Session>("DELETE", "/v1/session");

const SCOPES = ["route", "read", "operate", "admin"];
export const mayOperate = (session: Session) => SCOPES.indexOf(session.scope) >= SCOPES.indexOf("operate");
