import pytest

for _name in ("cv2", "scenedetect"):
    pytest.importorskip(_name, reason=f"{_name} is in the extra curate")
