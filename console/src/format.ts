/** Figures as people read them: three digits for work, two decimals for money, whole units for spans. */

export const NONE = "–";

/** Work, load or capacity, without its unit. */
export function work(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return NONE;
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]] as const)
    if (Math.abs(value) >= 0.9995 * limit) return digits(value / limit) + unit;
  return digits(value);
}

function digits(value: number): string {
  if (Math.abs(value) < 0.005) return "0";
  return String(Number(value.toPrecision(3)));
}

export function usd(value: number): string {
  const decimals = value > 0 && value < 0.01 ? 4 : 2;
  const text = Math.abs(value).toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return `${value < 0 ? "−" : ""}$${text}`;
}

export function span(seconds: number): string {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds < 0.0005) return "0 s";
  if (seconds < 0.95) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A time of today without its date; 24 h, in the browser's zone. */
export function clock(at: number, seconds = true): string {
  const date = new Date(at * 1000);
  const time = date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(seconds && { second: "2-digit" }) });
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

export function whole(at: number): string {
  return new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "long" });
}

export function count(n: number, what: string, many = `${what}s`): string {
  return `${n.toLocaleString("en-US")} ${n === 1 ? what : many}`;
}

export const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
