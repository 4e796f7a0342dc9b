() => {
  // A file that is dropped anywhere on the page goes to the drop area of the tab that is shown; a
  // browser would leave the page for it.
  const area = () => [...document.querySelectorAll("#video, #edited")].find((one) => one.offsetParent);
  const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    area()?.classList.add("dropping");
  });
  const ends = () => area()?.classList.remove("dropping");
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) ends(); });
  document.addEventListener("drop", (event) => {
    ends();
    if (event.defaultPrevented || !hasFiles(event)) return;
    event.preventDefault();
    const input = area()?.querySelector("input[type=file]");
    if (!input) return;
    const given = new DataTransfer();
    for (const file of event.dataTransfer.files) given.items.add(file);
    input.files = given.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
