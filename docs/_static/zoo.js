// The table of the zoo: sorted by its headings, filtered by the fields above it, a line of code copied by a name.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.zoo");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const told = document.getElementById("zoo-told");
  const fields = [...document.querySelectorAll(".zoo-filters [data-column]")];

  const filter = () => {
    let shown = 0;
    for (const row of rows) {
      row.hidden = !fields.every((field) => {
        const cell = row.cells[Number(field.dataset.column)].textContent.trim();
        if (!field.value) return true;
        return field.tagName === "SELECT" ? cell === field.value : cell.includes(field.value.trim());
      });
      shown += !row.hidden;
    }
    told.textContent = `${shown} of ${rows.length} weight sets`;
  };
  fields.forEach((field) => field.addEventListener("input", filter));
  filter();

  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.querySelector("button")?.addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = (row) => {
        const text = row.cells[column].textContent.trim().replaceAll(",", "");
        return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
      };
      rows.sort((one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === null || b === null) return (a === null) - (b === null);
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return ascending ? order : -order;
      });
      body.append(...rows);
    });
  });

  body.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-code]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.code);
      told.textContent = `copied: ${button.dataset.code}`;
    } catch {
      told.textContent = button.dataset.code; // From disk, some browsers keep the clipboard to themselves.
    }
  });
});
