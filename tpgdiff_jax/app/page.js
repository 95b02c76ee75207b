// A picture pasted or dropped anywhere on the page goes the way of a chosen file.
function choose(event, files) {
  const found = [...(files ?? [])];
  const input = document.querySelector("#upload input[type=file]");
  if (!found.length || !input) return;
  const chosen = new DataTransfer();
  // Some browsers know no type for HEIC; what is no picture is answered in a sentence.
  chosen.items.add(found.find((file) => file.type.startsWith("image/")) ?? found[0]);
  input.files = chosen.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  event.preventDefault();
}
document.addEventListener("paste", (event) => choose(event, event.clipboardData?.files));
// Beside the field a browser would open the picture in the place of the page.
const isBeside = (event) => !event.target.closest?.("#upload") && event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => isBeside(event) && event.preventDefault());
document.addEventListener("drop", (event) => isBeside(event) && choose(event, event.dataTransfer.files));
