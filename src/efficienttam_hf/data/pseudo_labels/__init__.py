"""Pseudo-labels: masks of photographs and tracks of clips, made by a promptable teacher from pictures nobody annotated.

`teachers` turn a prompt on a picture into masks: a pair of ONNX files, a model of Transformers' mask-generation kind or
an EfficientTAM. `proposals` finds the objects of one picture with it, `tracks` follows them through a clip (`flow`
carries a mask to the next frame, the teacher redraws it there) and keeps what forward and backward agree on, and
`labelling` does this for a folder and writes what `finetune` reads, with sheets to look at (`writing`).
"""
