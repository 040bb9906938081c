#!/usr/bin/env bash
# Makes the demo's teacher, src/cmkd/demo/teacher: a ResNet-20 trained on all 60,000 images of Fashion-MNIST.
# Its validation part, and most of the demo's, are images of that training set; the test images are not.
#
#     scripts/train_demo_teacher.sh /usr/share/datasets/fashion-mnist
#
# The folder is where Debian's package dataset-fashion-mnist puts the images. About 10 minutes on 2 CPU cores.
set -euo pipefail
images=${1:?give the folder with the idx files of Fashion-MNIST}
cd "$(dirname "$0")/.."
cmkd train --data fashion-mnist --data_root "$images" --model resnet20 --epochs 6 --out runs/demo-teacher
mkdir -p src/cmkd/demo/teacher
cp runs/demo-teacher/{config.yaml,environment.json,metrics.jsonl,model.json,result.json,student.safetensors} \
    src/cmkd/demo/teacher/
