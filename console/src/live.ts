/** What the server tells, kept up to date by one stream. Pages read it, and are painted again at most every 250 ms. */
import { useEffect, useReducer } from "preact/hooks";
import { Failed, get, type Decided, type EndpointChanged, type Standing, type Status, type WorkerMoved } from "./api";

const PAINT_MS = 250;
const STALE_S = 5;
const LOST_S = 30;
const BEAT_S = 2;
const AGAIN_S = 30; // caps, troubles and endpoints that are gone come with the status alone
const SHARED_S = 5; // and so do endpoints of other servers, whose events this server does not have

export type Connection = "live" | "stale" | "lost";
export type Moved = { decided?: Decided; moved?: WorkerMoved; endpointId: number };

class Live {
  status: Status | null = null;
  endpoints = new Map<number, Standing>();
  /** When the server last gave a sign, in seconds; and its clock's lead over the browser's. */
  heardAt = 0;
  failed = "";
  ended = false;
  private stream: EventSource | null = null;
  private painters = new Set<() => void>();
  private hearers = new Set<(what: Moved) => void>();
  private painting = 0;
  private timers: number[] = [];
  private leadS = 0;
  private askedAt = 0;

  /** The server's time, in seconds since the epoch. */
  now = () => Date.now() / 1000 + this.leadS;

  get connection(): Connection {
    const age = Date.now() / 1000 - this.heardAt;
    return age < STALE_S ? "live" : age < LOST_S ? "stale" : "lost";
  }

  begin(): void {
    this.end();
    this.ended = false;
    this.open();
    this.timers = [
      window.setInterval(() => document.visibilityState === "visible" && Date.now() / 1000 - this.askedAt >= this.againS() && void this.load(), 1000),
      window.setInterval(() => this.connection !== "live" && this.paint(), 1000),
    ];
    document.addEventListener("visibilitychange", this.seen);
  }

  end(): void {
    this.stream?.close();
    this.timers.forEach(clearInterval);
    document.removeEventListener("visibilitychange", this.seen);
    this.status = null;
    this.endpoints.clear();
  }

  onPaint(painter: () => void): () => void {
    this.painters.add(painter);
    return () => void this.painters.delete(painter);
  }

  /** Hears of decisions and of workers that change. */
  onMove(hearer: (what: Moved) => void): () => void {
    this.hearers.add(hearer);
    return () => void this.hearers.delete(hearer);
  }

  /** After how long all of it is read again: with many endpoints on several servers less often. */
  private againS = () => ((this.status?.servers ?? 1) > 1 ? Math.min(AGAIN_S, Math.max(SHARED_S, this.endpoints.size / 20)) : AGAIN_S);

  /** Reads all of it again. */
  async load(): Promise<void> {
    this.askedAt = Date.now() / 1000;
    try {
      const status = await get<Status>("/v1/status");
      this.status = status;
      const before = this.endpoints;
      this.endpoints = new Map(status.standing.map((one) => [one.id, one]));
      if (status.servers > 1) for (const one of status.standing) if (JSON.stringify(one) !== JSON.stringify(before.get(one.id))) this.tell({ endpointId: one.id });
      this.failed = "";
      this.heard();
    } catch (error) {
      if (error instanceof Failed && error.status === 401) this.ended = true;
      this.failed = (error as Error).message;
    }
    this.paint();
  }

  private open(): void {
    this.stream?.close();
    const stream = (this.stream = new EventSource(`/v1/events?beat_s=${BEAT_S}`));
    const on = <T>(name: string, take: (told: T) => void) =>
      stream.addEventListener(name, (event) => {
        this.heard();
        take(JSON.parse((event as MessageEvent<string>).data) as T);
        this.paint();
      });
    stream.onopen = () => void this.load();
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED && stream === this.stream)
        window.setTimeout(() => void this.load().then(() => !this.ended && this.open()), 3000);
    };
    on("beat", () => {});
    on("lost", () => void this.load());
    on<EndpointChanged>("endpoint", (told) => this.takeEndpoint(told));
    on<Decided>("decision", (decided) => this.tell({ decided, endpointId: decided.endpoint_id }));
    on<WorkerMoved>("worker", (moved) => this.tell({ moved, endpointId: moved.endpoint_id }));
  }

  private takeEndpoint(told: EndpointChanged): void {
    this.leadS = told.at - Date.now() / 1000;
    const before = this.endpoints.get(told.endpoint_id);
    if (before === undefined) return void this.load();
    const { figures, condition, verdict, state, usd_h, spent_usd, workers, waiting } = told;
    const oldest_wait_s = figures.oldest_wait_s;
    const next = { ...before, endpoint: told.endpoint, figures, condition, verdict, state, usd_h, spent_usd, workers, waiting };
    this.endpoints.set(told.endpoint_id, { ...next, oldest_wait_s });
    this.tell({ endpointId: told.endpoint_id });
  }

  private tell(what: Moved): void {
    for (const hearer of this.hearers) hearer(what);
  }

  private heard(): void {
    this.heardAt = Date.now() / 1000;
  }

  private seen = () => void (document.visibilityState === "visible" && this.load());

  private paint(): void {
    if (this.painting || document.visibilityState === "hidden") return;
    this.painting = window.setTimeout(() => {
      this.painting = 0;
      for (const painter of this.painters) painter();
    }, PAINT_MS);
  }
}

export const live = new Live();

/** Paints the component again when something has changed. */
export function useLive(): Live {
  const [, paint] = useReducer((n: number) => n + 1, 0);
  useEffect(() => live.onPaint(() => paint(undefined as never)), []);
  return live;
}

/** An answer of the server, read again when `again` says so, at most every `leastMs`. */
export function useAnswer<T>(path: string, options: { everyMs?: number; endpointId?: number; leastMs?: number } = {}) {
  const [state, set] = useReducer((_: Answer<T>, next: Answer<T>) => next, { path: "" });
  const { everyMs, endpointId, leastMs = 1500 } = options;
  const [wish, again] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    if (!path) return;
    const stop = new AbortController();
    let readAt = 0;
    let waits = 0;
    let reading = false;
    let value: T | undefined;
    const read = async () => {
      waits = 0;
      if (reading || document.visibilityState === "hidden") return;
      reading = true;
      readAt = Date.now();
      try {
        value = await get<T>(path, stop.signal);
        if (!stop.signal.aborted) set({ path, value });
      } catch (error) {
        if (!stop.signal.aborted) set({ path, value, error: error as Failed });
      }
      reading = false;
    };
    const soon = () => {
      if (!waits) waits = window.setTimeout(read, Math.max(50, readAt + leastMs - Date.now()));
    };
    void read();
    const timer = everyMs ? window.setInterval(read, everyMs) : 0;
    const off = endpointId === undefined ? () => {} : live.onMove((what) => what.endpointId === endpointId && soon());
    return () => {
      stop.abort();
      clearInterval(timer);
      clearTimeout(waits);
      off();
    };
  }, [path, everyMs, endpointId, leastMs, wish]);
  const fresh: Partial<Answer<T>> = state.path === path ? state : {};
  return { value: fresh.value, error: fresh.error, again: () => again(undefined as never) };
}
type Answer<T> = { path: string; value?: T; error?: Failed };

/** An endpoint in the paths of the API: by its id, unless another one has that for a name. */
export function inPath(standing: Standing): string {
  const named = [...live.endpoints.values()].some((one) => one.endpoint === String(standing.id));
  return named ? encodeURIComponent(standing.endpoint) : String(standing.id);
}
