// Keyboard shortcuts: letters for actions, arrows to move between pictures.

const find = (id) => document.getElementById(id);
const cards = () => [...document.querySelectorAll("#cards .card")];

// Only one card is in the tab order; arrows choose which.
export function focusable(card) {
  for (const other of cards()) other.tabIndex = other === card ? 0 : -1;
}

function move(key) {
  const all = cards();
  const at = all.indexOf(document.activeElement);
  if (!all.length) return false;
  const columns = all.filter((card) => card.offsetTop === all[0].offsetTop).length || 1;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const next = at < 0 ? 0 : at + by;
  if (!all[next]) return false;
  focusable(all[next]);
  all[next].focus();
  return true;
}

export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const at = event.target;
    if (at.matches("select, textarea, input:not([type=checkbox]):not([type=file])")) return;
    if (actions.asking()) {
      if (actions.answer(event) || (["d", "?"].includes(event.key) && (actions[event.key](), true))) event.preventDefault();
      return;
    }
    if (event.key.startsWith("Arrow")) {
      if (move(event.key)) event.preventDefault();
      return;
    }
    const card = at.closest?.(".card");
    const digit = Number(event.key);
    if (event.key === "q" && card) actions.follow(card.dataset.key);
    else if (event.key !== " " && digit >= 1 && digit <= 9) actions.compare(digit - 1);
    else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  });
  const dialog = find("keys-dialog");
  find("keys").addEventListener("click", () => dialog.showModal());
  find("keys-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
}
