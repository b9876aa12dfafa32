"""Solutions to the exercises of notebook 03."""


# Exercise 1. Frame 0 gives group 0, frames 1 to 4 give 1: a division that rounds up. Only the sides
# of the grid matter for the order, not how long the clip is, so a longer clip keeps the numbers of
# its first tokens. A token covers 2 x 2 latents of 4 x 4 pixels each.
def token_of(frame, y, x, height, width):
    t = (frame + 3) // 4
    return (t * (height // 8) + y // 8) * (width // 8) + x // 8


# Exercise 2. Equation 2 backwards: w is what is left over from whole rows, h what is left over from
# whole pictures.
def position_of(n, grid):
    rows, w = divmod(n, grid[2])
    t, h = divmod(rows, grid[1])
    return t, h, w


# Exercise 3. Equation 3 is 4 N D (6 D + N), and N halves. Far below N = 6 D it is 2, far above 4.
def saved(t, h, w, D):
    N = t * (h // 2) * (w // 2)
    return 2 * (6 * D + N) / (6 * D + N / 2)
