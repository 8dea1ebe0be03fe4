# Words, dictionaries, classes, generators and big numbers: an ordinary script's mixture.
import collections
import hashlib
import json
import re


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        side = "left" if key < self.key else "right"
        child = getattr(self, side)
        if child is None:
            setattr(self, side, Node(key))
        else:
            child.insert(key)

    def __iter__(self):
        if self.left:
            yield from self.left
        yield self.key
        if self.right:
            yield from self.right


def main():
    text = open("text").read()[:200000]
    words = re.findall(r"[a-z]+", text)
    common = collections.Counter(words).most_common(20)
    tree = Node("m")
    for word in words[:1500]:
        tree.insert(word)
    ordered = list(tree)
    power = pow(3, 4001, 10**400 + 69)
    document = json.dumps({"common": common, "ordered": ordered[::50], "power": str(power)})
    print(len(json.loads(document)["ordered"]), hashlib.sha256(document.encode()).hexdigest())


main()
