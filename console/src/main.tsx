import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/pages.css";
import { App } from "./app";
import { kept } from "./kept";

kept.applyTheme();
render(<App />, document.getElementById("root")!);
