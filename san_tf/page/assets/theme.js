// Light or dark: the system's setting, until the user chooses.

const dark = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

function apply() {
  document.documentElement.dataset.theme = stored() ?? (dark.matches ? "dark" : "light");
}

export function toggle() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", next); } catch { /* then it is not stored */ }
  document.documentElement.dataset.theme = next;
}

dark.addEventListener("change", apply);
document.getElementById("theme").addEventListener("click", toggle);
apply();
