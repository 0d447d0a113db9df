"""Limits of one request, and of all concurrent requests."""

from typing import NamedTuple


class ServerLimits(NamedTuple):
    """Limits of the server; `create_app` takes other values.

    Attributes:
        max_texts: Texts or documents of a request.
        max_images: Images of a request.
        max_labels: Labels of a request.
        max_prompts: Labels times templates of a request.
        max_text_characters: Max text characters of one text.
        max_characters: Max characters of all texts of a request, or of all its prompts.
        max_scores: Numbers in the answer: images times texts, or items times labels.
        max_image_bytes: Max image bytes of one image as it is sent or fetched.
        max_image_pixels: Max image pixels of one image, checked before it is decoded, and once it is resized.
        max_image_scans: Times that a progressive JPEG draws its pixels anew.
        max_image_parts: Segments, chunks or blocks of an image's file.
        max_pixels_in_flight: Max pixels in flight of all images that are being decoded or wait.
        max_body_bytes: Max body bytes of a request.
        max_body_bytes_in_flight: Max body bytes in flight of all requests together that are being answered, counted as
            they arrive.
        max_client_bytes: Max client bytes of those that come from one address.
        max_json_parts: Commas and opening brackets of a body, which bound the time to parse it.
        max_header_bytes: Max header bytes of the request line and the headers.
        max_requests: Max requests that are being answered at a time.
        max_fetches: Max fetches of images from addresses at a time.
        max_queue: Items that wait for a tower; more are refused with 429.
        max_queued_maps: Images that wait for a segmentation model; more are refused with 429.
        image_batch: Maximum number of images that the model sees at a time.
        text_batch: Maximum number of texts that the model sees at a time.
        wait_seconds: How long the first item of a batch waits for others.
        first_byte_seconds: First byte seconds for the first byte of a body to arrive.
        body_seconds: Body seconds for the whole body to arrive.
        min_body_rate: Minimum number of bytes per second of a body, after its first seconds.
        answer_seconds: Answer seconds for the answer to be ready.
        fetch_seconds: Fetch seconds for an image to be fetched from its address.
        cached_labels: Labels whose vectors are kept for the next request.
    """

    max_texts: int = 2048
    max_images: int = 64
    max_labels: int = 1024
    max_prompts: int = 16_384
    max_text_characters: int = 10_000
    max_characters: int = 1_000_000
    max_scores: int = 262_144
    max_image_bytes: int = 20 * 2**20
    max_image_pixels: int = 40_000_000
    max_image_scans: int = 50
    max_image_parts: int = 20_000
    max_pixels_in_flight: int = 200_000_000
    max_body_bytes: int = 32 * 2**20
    max_body_bytes_in_flight: int = 512 * 2**20
    max_client_bytes: int = 256 * 2**20
    max_json_parts: int = 2_000_000
    max_header_bytes: int = 64 * 2**10
    max_requests: int = 1024
    max_fetches: int = 16
    max_queue: int = 4096
    max_queued_maps: int = 32
    image_batch: int = 32
    text_batch: int = 64
    wait_seconds: float = 0.004
    first_byte_seconds: float = 5.0
    body_seconds: float = 30.0
    min_body_rate: int = 16_384
    answer_seconds: float = 60.0
    fetch_seconds: float = 10.0
    cached_labels: int = 65_536
