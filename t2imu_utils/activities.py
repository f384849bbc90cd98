"""The paper's names: activities, categories, sensor positions (Sections III-C and III-D).

The paper mixes two lists. *Activities* are the eight classes of RealWorld, used for prompts and
for activity recognition. *Categories* are the eight that HumanML3D and RealWorld have in common,
plus "other", used to group the acceleration loss.
"""

ACTIVITIES = (
    "climbing down", "climbing up", "jumping", "lying", "running", "sitting", "standing", "walking",
)  # fmt: skip

CATEGORIES = (
    "dancing", "jumping", "running", "lying", "sitting", "stair climbing", "standing", "walking",
    "other",
)  # fmt: skip
HIGH_DYNAMIC = ("dancing", "jumping", "running")

# Section III-D: a text whose best cosine similarity does not exceed this is "other".
CATEGORY_THRESHOLD = 0.45

# RealWorld's seven positions. The paper says nine vertices and lists none: the other side's
# forearm and shin are this project's reading.
POSITIONS = ("head", "chest", "upperarm", "forearm", "waist", "thigh", "shin")
SITES = (*POSITIONS, "forearm_other", "shin_other")

REALWORLD_ACTIVITY = {name.replace(" ", ""): name for name in ACTIVITIES}


def category_of(activity: str) -> str:
    """The category that an activity falls into: both directions of stairs are "stair climbing"."""
    return "stair climbing" if activity.startswith("climbing") else activity
