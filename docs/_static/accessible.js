// What the theme leaves out: headings of the navigation have a level, and what scrolls can be scrolled by keys.
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
  for (const box of document.querySelectorAll(".highlight pre, .table-wrapper, .content table, .content pre")) box.tabIndex = 0;
});
