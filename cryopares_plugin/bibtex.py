"""

@article{SanchezGarcia2025,
  title = {Supervised Deep Learning for Efficient Cryo-EM Image Alignment in Drug Discovery with cryoPARES},
  author = {Sanchez-Garcia, Ruben and others},
  journal = {bioRxiv},
  year = {2025},
  publisher = {Cold Spring Harbor Laboratory}
}

"""
