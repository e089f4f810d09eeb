"""Facility location by definition, in plain Python."""


def naive_order(points, num_medoids):
    """Every gain of every candidate at every step, in plain Python; ties to the lowest row."""
    rows = points.tolist()
    distance = [
        [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5 for y in rows] for x in rows
    ]
    largest = max(max(row) for row in distance)
    similarity = [[largest - d for d in row] for row in distance]
    order, covered = [], [0.0] * len(rows)
    for _ in range(num_medoids):
        gains = [
            -1.0
            if j in order
            else sum(max(s - c, 0.0) for s, c in zip(similarity[j], covered, strict=True))
            for j in range(len(rows))
        ]
        best = gains.index(max(gains))
        order.append(best)
        covered = [max(s, c) for s, c in zip(similarity[best], covered, strict=True)]
    return order


def naive_clusters(points, num_medoids):
    order = naive_order(points, num_medoids)
    owner = [
        min(range(num_medoids), key=lambda k: float((x - points[order[k]]).norm())) for x in points
    ]
    return owner, [owner.count(k) for k in range(num_medoids)]
