"""What tools/ablations.py compares: one command line, and others that differ from it in one thing each."""

# All but the places of pictures and run. Two epochs show what helps soon; what needs long to pay, they do not show.
BASE = """\
--arch resnet20_bireal --dataset imagefolder --normalize cifar10 --img-size 32 --augment crop_flip
--recipe short-cpu --epochs 2 --amp bf16 --channels-last --flip-test --seed 1"""

# Of the command line itself, with two seeds: as far as these lie apart, a difference says nothing.
BASES = {"base": "", "base_2": "--seed 2"}

# Name -> what is added to the base, where it overrides the same flag.
VARIANTS = {
    **BASES,
    "norm_images": "--norm-images 2048",
    "teacher": "--import tools/he_resnets.py --teacher ARCH:FILE --distill-weight 0.7",
    "one_cycle": "--lr-schedule one-cycle",
    "start_size": "--start-size 20",
    "sgd": "--optimizer sgd --lr 0.1 --nesterov",
    "whiten": "--whiten",
    "ema": "--ema 0.99",
    "crop_alternate": "--augment crop_alternate",
    "norm_bias_rate": "--norm-bias-rate 8",
    "label_smoothing": "--label-smoothing 0.1",
    "batch_128": "--batch-size 128",
    "stage1": "--stage1-epochs 1",
}
TEACHER = "ARCH:FILE"  # stands for what --teacher says
