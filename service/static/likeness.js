// How alike two pictures are by the hashes of their pixels, in words.

export const SAME = 31; // bits in which hashes of one picture differ, as the authors of PDQ advise

/**
 * Of a half of a picture the hashes lay within 50 bits of its own, of pictures that have nothing in common never
 * within 80 (drawn noise, 12 and 40 pictures). Between SAME and this nobody can be sure.
 */
export const UNSURE = 63;

export function likeness(distance) {
  if (distance <= SAME) return "same picture";
  return distance <= UNSURE ? "perhaps the same" : "unlike";
}
