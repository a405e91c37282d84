// Files that were chosen or dropped. A folder is only read as far as somebody asks for its files.

/** Where a file lay in the folder that was given, that folder's name first; empty: it was given alone. */
export const pathOf = (file) => file.path ?? file.webkitRelativePath;

/** Whether a file or a folder in the folder that was given is one of those that systems hide. */
export const isHidden = (path) =>
  path
    .split("/")
    .slice(1)
    .some((part) => part.startsWith("."));

/** The files that were dropped, those in folders too. To be called within the event: after it they are gone. */
export function dropped({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return entries.some(({ isDirectory }) => isDirectory) ? each(entries) : [...files];
}

async function* each(entries) {
  for (const entry of entries) yield* walk(entry);
}

/** What cannot be read is a file too, without content: it says by `fault` why. */
async function* walk(entry) {
  const path = entry.fullPath.slice(1);
  if (isHidden(path)) return;
  try {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      yield Object.assign(file, { path: path.includes("/") ? path : "" });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a part at a time
      if (some.length === 0) return;
      yield* each(some);
    }
  } catch (error) {
    yield Object.assign(new File([], entry.name), { path, fault: error.message });
  }
}
