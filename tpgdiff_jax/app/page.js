// A picture pasted anywhere on the page goes the way of a chosen file.
document.addEventListener("paste", (event) => {
  const pasted = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
  const input = document.querySelector("#upload input[type=file]");
  if (!pasted || !input) return;
  const files = new DataTransfer();
  files.items.add(pasted);
  input.files = files.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
  event.preventDefault();
});
