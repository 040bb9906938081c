"""The state dicts of RepDistiller and mdistiller, as names and shapes, written down without any network.

From the files `models/*.py` of HobbitLong/RepDistiller and `mdistiller/models/cifar/*.py` of
megvii-research/mdistiller, which agree in every name and shape.
"""

from itertools import pairwise


def conv(name, inputs, outputs, size, *, bias=False):
    yield f"{name}.weight", (outputs, inputs, size, size)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name, width):
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def linear(name, inputs, outputs):
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def conv_norm(conv_name, norm_name, inputs, outputs, size, **options):
    yield from conv(conv_name, inputs, outputs, size, **options)
    yield from norm(norm_name, outputs)


def resnet(depth, widths, classes=100):
    yield from conv_norm("conv1", "bn1", 3, widths[0], 3)
    for stage, (before, width) in enumerate(pairwise(widths), 1):
        for block in range((depth - 2) // 6):
            name, inputs = f"layer{stage}.{block}", before if block == 0 else width
            yield from conv_norm(f"{name}.conv1", f"{name}.bn1", inputs, width, 3)
            yield from conv_norm(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            if block == 0 and (stage > 1 or before != width):
                yield from conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", before, width, 1)
    yield from linear("fc", widths[-1], classes)


def imagenet_like_resnet(blocks, kernels, classes=100):
    """`kernels`: sizes of a block's convolutions, (3, 3) or (1, 3, 1); the latter ends four times as wide."""
    yield from conv_norm("conv1", "bn1", 3, 64, 3)
    before = 64
    for stage, count in enumerate(blocks, 1):
        width = 32 * 2**stage
        wide = width * (4 if len(kernels) == 3 else 1)
        for block in range(count):
            name, inputs = f"layer{stage}.{block}", before
            for number, size in enumerate(kernels, 1):
                outputs = wide if number == len(kernels) else width
                yield from conv_norm(f"{name}.conv{number}", f"{name}.bn{number}", inputs, outputs, size)
                inputs = outputs
            if block == 0 and (stage > 1 or before != wide):
                yield from conv_norm(f"{name}.shortcut.0", f"{name}.shortcut.1", before, wide, 1)
            before = wide
    yield from linear("linear", before, classes)


def wide_resnet(depth, factor, classes=100):
    yield from conv("conv1", 3, 16, 3)
    before = 16
    for stage in (1, 2, 3):
        width = 8 * 2**stage * factor
        for block in range((depth - 4) // 6):
            name = f"block{stage}.layer.{block}"
            yield from norm(f"{name}.bn1", before)
            yield from conv_norm(f"{name}.conv1", f"{name}.bn2", before, width, 3)
            yield from conv(f"{name}.conv2", width, width, 3)
            if before != width:
                yield from conv(f"{name}.convShortcut", before, width, 1)
            before = width
    yield from norm("bn1", before)
    yield from linear("fc", before, classes)


def vgg(convolutions, classes=100):
    before = 3
    for block, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True)):
        for number in range(count):
            name = f"block{block}"
            yield from conv_norm(
                f"{name}.{3 * number}", f"{name}.{3 * number + 1}", before, width, 3, bias=True
            )
            before = width
    yield from linear("classifier", before, classes)


def mobilenet(classes=100):
    yield from conv_norm("conv1.0", "conv1.1", 3, 16, 3)
    before = 16
    rows = [(1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1)]
    for row, (expansion, width, blocks) in enumerate(rows):
        for block in range(blocks):
            name, inner = f"blocks.{row}.{block}.conv", expansion * before
            yield from conv_norm(f"{name}.0", f"{name}.1", before, inner, 1)
            yield from conv_norm(f"{name}.3", f"{name}.4", 1, inner, 3)
            yield from conv_norm(f"{name}.6", f"{name}.7", inner, width, 1)
            before = width
    yield from conv_norm("conv2.0", "conv2.1", before, 1280, 1)
    yield from linear("classifier.0", 1280, classes)


def shufflenet_v1(classes=100):
    yield from conv_norm("conv1", "bn1", 3, 24, 1)
    before = 24
    for stage, (width, units) in enumerate([(240, 4), (480, 8), (960, 4)], 1):
        for unit in range(units):
            name = f"layer{stage}.{unit}"
            made = width - before if unit == 0 else width  # the input is appended in the first unit
            inner = made // 4
            groups = 1 if before == 24 else 3
            yield from conv_norm(f"{name}.conv1", f"{name}.bn1", before // groups, inner, 1)
            yield from conv_norm(f"{name}.conv2", f"{name}.bn2", 1, inner, 3)
            yield from conv_norm(f"{name}.conv3", f"{name}.bn3", inner // 3, made, 1)
            before = width
    yield from linear("linear", before, classes)


def shufflenet_v2(classes=100):
    yield from conv_norm("conv1", "bn1", 3, 24, 1)
    before = 24
    for stage, (width, units) in enumerate([(116, 4), (232, 8), (464, 4)], 1):
        half = width // 2
        name = f"layer{stage}.0"
        yield from conv_norm(f"{name}.conv1", f"{name}.bn1", 1, before, 3)
        yield from conv_norm(f"{name}.conv2", f"{name}.bn2", before, half, 1)
        yield from conv_norm(f"{name}.conv3", f"{name}.bn3", before, half, 1)
        yield from conv_norm(f"{name}.conv4", f"{name}.bn4", 1, half, 3)
        yield from conv_norm(f"{name}.conv5", f"{name}.bn5", half, half, 1)
        for unit in range(1, units):
            name = f"layer{stage}.{unit}"
            yield from conv_norm(f"{name}.conv1", f"{name}.bn1", half, half, 1)
            yield from conv_norm(f"{name}.conv2", f"{name}.bn2", 1, half, 3)
            yield from conv_norm(f"{name}.conv3", f"{name}.bn3", half, half, 1)
        before = width
    yield from conv_norm("conv2", "bn2", before, 1024, 1)
    yield from linear("linear", 1024, classes)


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)

#: Layout and number of parameters for 100 classes, counted in the published code.
PUBLISHED = {
    "resnet8": (dict(resnet(8, NARROW)), 83_892),
    "resnet14": (dict(resnet(14, NARROW)), 181_108),
    "resnet20": (dict(resnet(20, NARROW)), 278_324),
    "resnet32": (dict(resnet(32, NARROW)), 472_756),
    "resnet44": (dict(resnet(44, NARROW)), 667_188),
    "resnet56": (dict(resnet(56, NARROW)), 861_620),
    "resnet110": (dict(resnet(110, NARROW)), 1_736_564),
    "resnet8x4": (dict(resnet(8, WIDE)), 1_233_540),
    "resnet32x4": (dict(resnet(32, WIDE)), 7_433_860),
    "ResNet18": (dict(imagenet_like_resnet((2, 2, 2, 2), (3, 3))), 11_220_132),
    "ResNet34": (dict(imagenet_like_resnet((3, 4, 6, 3), (3, 3))), 21_328_292),
    "ResNet50": (dict(imagenet_like_resnet((3, 4, 6, 3), (1, 3, 1))), 23_705_252),
    "wrn_16_1": (dict(wide_resnet(16, 1)), 180_916),
    "wrn_16_2": (dict(wide_resnet(16, 2)), 703_284),
    "wrn_28_2": (dict(wide_resnet(28, 2)), 1_479_220),
    "wrn_28_4": (dict(wide_resnet(28, 4)), 5_872_180),
    "wrn_40_1": (dict(wide_resnet(40, 1)), 569_780),
    "wrn_40_2": (dict(wide_resnet(40, 2)), 2_255_156),
    "wrn_28_10": (dict(wide_resnet(28, 10)), 36_536_884),
    "vgg8": (dict(vgg((1, 1, 1, 1, 1))), 3_965_028),
    "vgg11": (dict(vgg((1, 1, 2, 2, 2))), 9_277_284),
    "vgg13": (dict(vgg((2, 2, 2, 2, 2))), 9_462_180),
    "vgg16": (dict(vgg((2, 2, 3, 3, 3))), 14_774_436),
    "vgg19": (dict(vgg((2, 2, 4, 4, 4))), 20_086_692),
    "MobileNetV2": (dict(mobilenet()), 812_836),
    "ShuffleV1": (dict(shufflenet_v1()), 949_258),
    "ShuffleV2": (dict(shufflenet_v2()), 1_355_528),
}
