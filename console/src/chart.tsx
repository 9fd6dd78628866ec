/** Charts with uPlot: one look, one crosshair over all charts of a page, and a sentence for who cannot see them. */
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { clock } from "./format";

export type Line = {
  name: string;
  values: (number | null)[];
  /** Custom property of its colour, without the dashes. */
  ink: string;
  fill?: string;
  width?: number;
  dash?: boolean;
  /** What holds until it changes is stepped; what is measured is a line. */
  step?: boolean;
  /** Not in the legend. */
  silent?: boolean;
  /** What the legend shows in place of the drawn value, of a stack. */
  own?: (number | null)[];
};
export type Limit = { name: string; value: number; ink: string };
export type Mark = { at: number; title: string };

type Props = {
  title: string;
  at: number[];
  lines: Line[];
  show: (value: number | null | undefined) => string;
  tick?: (value: number) => string;
  unit: string;
  height?: number;
  limit?: Limit | null;
  marks?: Mark[];
  /** Two lines, the upper first, with the space between them filled. */
  band?: { between: [number, number]; fill: string };
  whole?: boolean;
  /** The span that is drawn, in seconds until now. */
  last: number;
  now: number;
  /** What stands above it, where a card has several. */
  head?: boolean;
};

const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const stepped = uPlot.paths.stepped!({ align: 1 });
const linear = uPlot.paths.linear!();

export function Chart(props: Props) {
  const box = useRef<HTMLDivElement>(null);
  const legend = useRef<HTMLSpanElement>(null);
  const latest = useRef(props);
  const plot = useRef<uPlot | null>(null);
  latest.current = props;
  const shape = JSON.stringify([props.lines.map((l) => [l.name, l.ink, l.fill, l.dash]), props.height, props.whole, props.limit?.name]);

  useLayoutEffect(() => {
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(box.current!, () => latest.current, tell), data(latest.current), box.current!);
    };
    const tell = (index: number | null) => write(legend.current, latest.current, index);
    make();
    tell(null);
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: box.current!.clientWidth, height: height(latest.current) }));
    resized.observe(box.current!);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    addEventListener("themechange", make);
    return () => {
      resized.disconnect();
      scheme.removeEventListener("change", make);
      removeEventListener("themechange", make);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => {
    const drawn = plot.current;
    if (!drawn || drawn.cursor.left! >= 0) return; // it stands still under the pointer
    drawn.batch(() => {
      drawn.setData(data(props), false);
      drawn.setScale("x", reach(props));
    });
    write(legend.current, props, null);
  });

  return (
    <figure class={`chart${props.head === false ? " bare" : ""}`}>
      <figcaption>
        <span class="title">{props.title} <span class="unit">{props.unit}</span></span>
        <span class="legend" ref={legend}>
          {props.lines.filter((l) => !l.silent).map((l) => <LegendEntry line={l} />)}
        </span>
      </figcaption>
      <div class="plot" ref={box} role="img" aria-label={sentence(props)} />
    </figure>
  );
}

function LegendEntry({ line }: { line: Line }) {
  return (
    <span class="entry">
      <i class={`key ink-${line.ink}${line.dash ? " dashed" : ""}`} />
      {line.name} <b />
    </span>
  );
}

/** What is drawn: the span that was asked for, or as much of it as there is. */
function reach({ at, now, last }: Props): { min: number; max: number } {
  const max = Math.max(now, at.at(-1) ?? 0);
  return { min: Math.min(Math.max(now - last, at[0] ?? 0), max - 60), max };
}

const height = (props: Props) => props.height ?? 200;

function data(props: Props): uPlot.AlignedData {
  return [props.at, ...props.lines.map((line) => line.values)] as uPlot.AlignedData;
}

/** Puts into the legend what the charts show at the pointer, or last. */
function write(legend: HTMLElement | null, props: Props, index: number | null): void {
  if (!legend) return;
  const lines = props.lines.filter((line) => !line.silent);
  [...legend.children].forEach((entry, i) => {
    const line = lines[i];
    if (!line) return;
    const values = line.own ?? line.values;
    const value = values[index ?? values.length - 1];
    entry.classList.toggle("none", line.own !== undefined && !value);
    entry.querySelector("b")!.textContent = props.show(value);
  });
}

function sentence(props: Props): string {
  const told = props.lines
    .filter((line) => !line.silent)
    .map((line) => {
      const values = (line.own ?? line.values).filter((v): v is number => v != null);
      if (!values.length) return `${line.name}: nothing measured`;
      const [first, last] = [props.show(values[0]), props.show(values.at(-1))];
      return `${line.name} went from ${first} to ${last}, least ${props.show(Math.min(...values))}, most ${props.show(Math.max(...values))}`;
    });
  return `${props.title}${props.unit ? `, ${props.unit}` : ""}. ${told.join(". ")}.`;
}

function options(box: HTMLElement, props: () => Props, tell: (index: number | null) => void): uPlot.Options {
  const ask = props();
  const font = `11px ${colour("sans")}`;
  const axis = { stroke: colour("ink-3"), font, ticks: { show: false } };
  return {
    width: box.clientWidth,
    height: height(ask),
    padding: [10, 24, 0, 0],
    legend: { show: false },
    cursor: { sync: { key: "page" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { time: true, range: (_, min, max) => (min === max ? [min - 60, max] : [min, max]) },
      y: {
        range: (_, _min, max) => {
          const { limit } = props();
          const most = Math.max(max || 0, limit && max >= limit.value / 3 ? limit.value * 1.06 : 0);
          return [0, most > 0 ? most * 1.08 : 1];
        },
      },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 24, space: 76, values: (_, at) => at.map((t) => (at.length > 1 && at[1]! - at[0]! < 60 ? clock(t).slice(-8) : clock(t, false).slice(-5))) },
      {
        ...axis,
        size: 46,
        gap: 6,
        space: ask.height && ask.height < 120 ? 30 : 40,
        grid: { stroke: colour("grid"), width: 1 },
        incrs: ask.whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] : undefined,
        values: (_, at) => at.map((v) => (ask.tick ?? ask.show)(v)),
      },
    ],
    bands: ask.band && [{ series: [ask.band.between[0] + 1, ask.band.between[1] + 1], fill: colour(ask.band.fill) }],
    series: [
      {},
      ...ask.lines.map((line) => ({
        label: line.name,
        stroke: colour(line.ink),
        fill: line.fill ? colour(line.fill) : undefined,
        width: line.width ?? 1.5,
        dash: line.dash ? [5, 4] : undefined,
        paths: line.step ? stepped : linear,
        points: { show: false },
        spanGaps: false,
      })),
    ],
    hooks: {
      setCursor: [(drawn) => tell(drawn.cursor.idx ?? null)],
      draw: [(drawn) => decorate(drawn, props())],
    },
  };
}

/** The limit as a dashed line with its name, and a triangle for each decision. */
function decorate(drawn: uPlot, { limit, marks = [] }: Props): void {
  const { ctx, bbox } = drawn;
  const scale = devicePixelRatio;
  ctx.save();
  if (limit && limit.value <= (drawn.scales.y!.max ?? 0)) {
    const y = drawn.valToPos(limit.value, "y", true);
    ctx.strokeStyle = ctx.fillStyle = colour(limit.ink);
    ctx.lineWidth = 1.25 * scale;
    ctx.setLineDash([5 * scale, 4 * scale]);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.font = `${11 * scale}px ${colour("sans")}`;
    ctx.textAlign = "right";
    ctx.textBaseline = "bottom";
    ctx.fillText(limit.name, bbox.left + bbox.width - 2 * scale, y - 3 * scale);
  }
  ctx.setLineDash([]);
  ctx.fillStyle = colour("ink-2");
  const foot = bbox.top + bbox.height;
  for (const mark of marks) {
    const x = drawn.valToPos(mark.at, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x - 3.5 * scale, foot);
    ctx.lineTo(x + 3.5 * scale, foot);
    ctx.lineTo(x, foot - 6 * scale);
    ctx.fill();
  }
  ctx.restore();
}

/** An hour of load over hot capacity, in a row of a table. */
export function Spark({ load, hot }: { load: number[]; hot: number[] }) {
  if (load.length < 2) return <svg class="spark" aria-hidden="true" />;
  const stride = Math.max(1, Math.floor(load.length / 96));
  const pick = (values: number[]) => values.filter((_, i) => i % stride === 0 || i === values.length - 1);
  const [a, b] = [pick(load), pick(hot)];
  const most = Math.max(...a, ...b) || 1;
  const x = (i: number) => ((96 * i) / (a.length - 1)).toFixed(1);
  const y = (value: number) => (27 - (25 * value) / most).toFixed(1);
  const area = b.map((value, i) => `${i ? `H${x(i)}` : `M0 28V${y(value)}`}V${y(value)}`).join("");
  return (
    <svg class="spark" viewBox="0 0 96 28" preserveAspectRatio="none" aria-hidden="true">
      <path class="hot" d={`${area}V28z`} />
      <polyline class="load" points={a.map((value, i) => `${x(i)},${y(value)}`).join(" ")} />
    </svg>
  );
}
