# Fields, associative arrays and string functions.
{
	for (i = 1; i <= NF; i++) {
		count[$i]++
		letters += length($i)
		if (index($i, "ba"))
			found++
	}
	sub(/[aeiou]+/, "-")
	dashes += gsub(/[xyz]/, "")
}
END {
	for (word in count)
		if (count[word] > most) {
			most = count[word]
		}
	print NR, letters, found, dashes, most
}
