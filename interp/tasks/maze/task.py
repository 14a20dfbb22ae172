PROMPTS = {
    "trail": "the green agent moves from start to the red goal and draws a blue trail along the shortest path .",
    "plain": "the green agent moves from start to the red goal along the shortest path without a trail .",
}
