"""The stage `probe`: size and rate of a file, by the reader's rules."""

from data_pipelines.curate.stage import Limit, Scores, Stage
from soraxla.media.read import VideoInfo

STAGE = Stage(
    name="probe",
    summary="reads size and rate of each file",
    scores={
        "side": "shorter side of the film, pixels",
        "fps": "frames per second; absent for a picture",
    },
    limits={"side": Limit(min=64.0), "fps": Limit(min=8.0, max=121.0)},
)


def scores(info: VideoInfo) -> Scores:
    """Returns the scores of a file, the same for all its clips."""
    fps = None if info.is_image else info.fps
    return {"side": float(min(info.height, info.width)), "fps": fps}
