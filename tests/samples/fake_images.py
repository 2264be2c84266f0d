"""The part of a coordinator that the client asks about images, from memory."""

import grpc
from google.protobuf.message import Message

from protos.hostler.v1 import admin_pb2 as pb
from protos.hostler.v1 import admin_pb2_grpc

DEBIAN = pb.Image(
    name="debian",
    arch="amd64",
    url="https://images.example/debian.qcow2.xz",
    sha256="0123456789abcdef" * 4,
    format="qcow2",
    compression="xz",
    hosts_have=3,
    hosts_failed=1,
)


class FakeImages(admin_pb2_grpc.AdminServicer):
    asked: list[Message]

    def ListImages(self, request: pb.ListImagesRequest, context: grpc.ServicerContext) -> pb.ListImagesResponse:  # noqa: N802
        return pb.ListImagesResponse(images=[DEBIAN])

    def GetImage(self, request: pb.GetImageRequest, context: grpc.ServicerContext) -> pb.GetImageResponse:  # noqa: N802
        if request.name != "debian":
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no image '{request.name}'")
        fetching = pb.ImageOnHost(host="build-1", state="fetching", bytes=1 << 30, total_bytes=4 << 30)
        failed = pb.ImageOnHost(host="build-2", state="failed", detail="the file has\x1b[31m another digest")
        return pb.GetImageResponse(images=[DEBIAN], hosts=[fetching, failed, pb.ImageOnHost(host="b3", state="have")])

    def RemoveImage(self, request: pb.RemoveImageRequest, context: grpc.ServicerContext) -> pb.RemoveImageResponse:  # noqa: N802
        self.asked.append(request)
        return pb.RemoveImageResponse(removed=[DEBIAN])

    def PrefetchImages(  # noqa: N802
        self, request: pb.PrefetchImagesRequest, context: grpc.ServicerContext
    ) -> pb.PrefetchImagesResponse:
        self.asked.append(request)
        return pb.PrefetchImagesResponse(hosts=["build-1"], have=["build-2"])
