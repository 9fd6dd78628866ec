/** The scaling parameters: how they are called, and how they are written. */
import type { Endpoint } from "./api";
import { span, usd, work } from "./format";

export type Value = number | string | null;
export type Parameter = { key: keyof Endpoint & string; name: string; unit: string; help: string; optional?: boolean; absent?: string; choices?: readonly string[]; show: (value: Value) => string };

const number = (show: (value: number) => string) => (value: Value) => (value === null ? "none" : typeof value === "number" ? show(value) : value);
const plain = number(String);

export const PARAMETERS: readonly Parameter[] = [
  { key: "slo_mode", name: "How capacity is planned", unit: "", choices: ["fixed", "auto"], help: "fixed: by the ratios below. auto: as much as keeps waits within target_queue_time.", show: plain },
  { key: "min_load", name: "Lowest load to plan for", unit: "work/s", help: "Above 0, capacity for so much is hot even when nobody asks.", show: number((v) => `${work(v)} work/s`) },
  { key: "target_util", name: "Load of hot capacity", unit: "", help: "Hot capacity is load divided by this: 0.9 leaves a tenth free.", show: plain },
  { key: "target_queue_time", name: "Wait that adds capacity", unit: "s", help: "Beyond it, capacity is added to clear the queue in that time.", show: number(span) },
  { key: "max_queue_time", name: "Longest queue at a worker", unit: "s", help: "A worker with more than that before it gets no requests.", show: number(span) },
  { key: "inactivity_timeout", name: "Idle time before zero", unit: "s", optional: true, absent: "20 starts", help: "Empty: as long as 20 starts. 0: the load decides. Below 0: never.", show: (value) => (value === null ? "20 starts" : Number(value) < 0 ? "never" : span(Number(value))) },
  { key: "max_workers", name: "Most workers", unit: "", help: "In any state, at any moment.", show: plain },
  { key: "cold_workers", name: "Fewest workers", unit: "", help: "Hot or cold. Cold ones start sooner than new ones.", show: plain },
  { key: "cold_mult", name: "Capacity in all, per hot", unit: "×", help: "3: for each hot worker two more wait, cold.", show: number((v) => `${work(v)}×`) },
  { key: "min_cold_load", name: "Lowest capacity in all", unit: "work/s", help: "At any load, hot and cold together.", show: number((v) => `${work(v)} work/s`) },
  { key: "max_usd_h", name: "Cap per hour", unit: "$/h", optional: true, help: "Nothing is rented or woken past it. Empty: none.", show: number((v) => `${usd(v)}/h`) },
  { key: "max_usd_day", name: "Cap per day", unit: "$", optional: true, help: "By the UTC day. Empty: none.", show: number(usd) },
  { key: "max_usd_month", name: "Cap per month", unit: "$", optional: true, help: "By the calendar month in UTC. Empty: none.", show: number(usd) },
];

export const written = (value: Value | undefined) => (value === null || value === undefined ? "" : String(value));

/** What differs between a form and the endpoint, as the API takes it. */
export function changes(form: Record<string, string>, has: Endpoint): Record<string, Value> {
  const found: Record<string, Value> = {};
  for (const { key, optional, choices } of PARAMETERS) {
    const said = form[key]?.trim();
    if (said === undefined || said === written(has[key] as Value)) continue;
    const amount = Number(said.replace(/,/g, ""));
    found[key] = said === "" ? (optional ? "none" : "") : choices || Number.isNaN(amount) ? said : amount;
  }
  return found;
}
