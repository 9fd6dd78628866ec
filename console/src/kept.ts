/** What this browser keeps: the theme, and that somebody signed in. */
const KEY = "posthouse-theme";
export type Theme = "system" | "light" | "dark";

function theme(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

/** Whether this browser was signed in when it was last here: then it is worth asking who it is. */
const SIGNED_IN = "posthouse-signed-in";

export const kept = {
  signedIn(): boolean {
    try {
      return localStorage.getItem(SIGNED_IN) !== null;
    } catch {
      return true;
    }
  },
  remember(signedIn: boolean): void {
    try {
      if (signedIn) localStorage.setItem(SIGNED_IN, "1");
      else localStorage.removeItem(SIGNED_IN);
    } catch {
      /* it is asked each time */
    }
  },
  theme,
  applyTheme(): void {
    const value = theme();
    if (value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = value;
    dispatchEvent(new Event("themechange"));
  },
  setTheme(value: Theme): void {
    try {
      if (value === "system") localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, value);
    } catch {
      /* it lasts until the page is left */
    }
    kept.applyTheme();
  },
};
